/* A libcuda.so.1 without a GPU: what libmxnet links of the NVIDIA driver, and what query_driver asks.
 * STUB_GPUS="A100=8.0;H100=9.0" pretends that these are there, STUB_CUDA=11040 that the driver is CUDA 11.4's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NO_DEVICE = 100, MAJOR = 75, MINOR = 76 };

/* The description of GPU `index`, copied to `text`; the number of GPUs. */
static int gpu(int index, char *text) {
    const char *next = getenv("STUB_GPUS");
    int count = 0;
    while (next && *next) {
        size_t length = strcspn(next, ";");
        if (count++ == index) sprintf(text, "%.*s", (int)(length < 99 ? length : 99), next);
        next += length + (next[length] == ';');
    }
    return count;
}

int cuInit(unsigned flags) { return gpu(-1, NULL) ? 0 : NO_DEVICE; }
int cuDeviceGetCount(int *count) { return (*count = gpu(-1, NULL)) ? 0 : NO_DEVICE; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, 0; }
int cuDriverGetVersion(int *version) {
    const char *given = getenv("STUB_CUDA");
    return *version = given ? atoi(given) : 12040, 0;
}
int cuDeviceGetName(char *name, int size, int device) {
    char text[100] = "";
    gpu(device, text);
    return snprintf(name, size, "%.*s", (int)strcspn(text, "="), text), 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    char text[100] = "";
    int major = 0, minor = 0;
    gpu(device, text);
    sscanf(strchr(text, '='), "=%d.%d", &major, &minor);
    *value = attribute == MAJOR ? major : attribute == MINOR ? minor : 0;
    return 0;
}
int cuGetErrorString(int error, const char **text) {
    *text = error == NO_DEVICE ? "no CUDA-capable device is detected" : "an error of the stub";
    return 0;
}

/* Linked by libmxnet, and of no use without a GPU. */
int cuDevicePrimaryCtxRetain(void) { return NO_DEVICE; }
int cuGraphKernelNodeGetParams(void) { return NO_DEVICE; }
int cuGraphNodeGetType(void) { return NO_DEVICE; }
int cuLaunchKernel(void) { return NO_DEVICE; }
int cuModuleGetFunction(void) { return NO_DEVICE; }
int cuModuleLoadData(void) { return NO_DEVICE; }
int cuModuleLoadDataEx(void) { return NO_DEVICE; }
int cuModuleUnload(void) { return NO_DEVICE; }
