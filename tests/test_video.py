"""confseg predict on videos: what is written, skipped, cut short, refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_prediction import read, refused, written

from gluon_confseg import figures, video
from gluon_confseg.errors import ConfsegError
from gluon_confseg.labels import CITYSCAPES


@pytest.fixture
def scenes(root):
    """Eight frames, BGR 64x96: a built-in scene that moves."""
    scene = cv2.imread(str(sorted((root / "leftImg8bit" / "val").rglob("*.png"))[0]))
    return [np.roll(scene, 6 * number, axis=1) for number in range(8)]


def make(path, frames, codec="MJPG", rate=12.5):
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def decoded(path):
    """All frames, RGB."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        there, frame = capture.read()
        if not there:
            return frames
        frames.append(frame[:, :, ::-1])


def test_overlays_and_label_maps_are_those_of_the_frames(confseg, run, scenes, tmp_path):
    clip = make(tmp_path / "in" / "clip.avi", scenes)
    code, out, errors = confseg("predict", run, clip, "--frames", "--output", "out")
    assert code == 0 and "8 frames written in" in out and "out/videos/clip.mp4 (mp4v)" in out
    assert "1 videos go to out" in errors and "OpenCV" not in errors
    labels = [f"labels/clip/{number:06d}.png" for number in range(8)]
    assert written(Path("out")) == [*labels, "videos/clip.json", "videos/clip.mp4"]
    for number, frame in enumerate(decoded(clip)):
        cv2.imwrite(str(tmp_path / "in" / f"{number:06d}.png"), frame[:, :, ::-1])
    assert confseg("predict", run, tmp_path / "in", "--output", "single")[0] == 0
    assert len(written(Path("single"))) == 24  # a folder's images, not its videos
    overlays = decoded("out/videos/clip.mp4")
    assert len(overlays) == 8
    for number, overlay in enumerate(overlays):
        assert (read(f"out/{labels[number]}") == read(f"single/labels/{number:06d}.png")).all()
        expected = read(f"single/overlays/{number:06d}.png").astype(int)
        assert abs(overlay - expected).mean() < 12  # the codec loses some
    capture = cv2.VideoCapture("out/videos/clip.mp4")
    assert capture.get(cv2.CAP_PROP_FPS) == 12.5


def test_run_again_a_whole_video_is_skipped(confseg, run, scenes, tmp_path):
    clip, image = make(tmp_path / "clip.avi", scenes), tmp_path / "clip.png"
    cv2.imwrite(str(image), scenes[0])

    def again(*options):
        code, out, errors = confseg("predict", run, clip, image, "--output", "out", *options)
        assert code == 0
        return ("frames written" in out, "images written" in out)

    assert again() == (True, True)
    assert "1 images and 1 videos" in confseg("predict", run, clip, image, "--output", "out")[2]
    assert again() == (False, False)
    assert again("--frames") == (True, False)
    assert again("--frames") == (False, False) == again()
    Path("out/labels/clip/000003.png").unlink()
    assert again() == (False, False) and again("--frames") == (True, False)
    assert again("--window", "48x48") == (True, True)
    Path("out/videos/clip.mp4").unlink()
    assert again("--window", "48x48") == (True, False)
    make(clip, scenes[:-1])
    assert again("--window", "48x48") == (True, False)


def test_a_video_that_ends_early(confseg, run, scenes, tmp_path):
    clip = make(tmp_path / "clip.avi", scenes)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 6 // 10])
    there = len(decoded(clip))
    assert 0 < there < 8
    for _ in range(2):  # not taken for finished
        code, out, errors = confseg("predict", run, clip, "--output", "out")
        lines = [line for line in errors.splitlines() if "ends early" in line]
        assert code == 1 and len(lines) == 1
        assert f"{clip} ends early: its header announces 8 frames, {there} could be read" in lines[0]
        assert len(decoded("out/videos/clip.mp4")) == there
    assert json.loads(Path("out/videos/clip.json").read_text())["whole"] is False


def test_a_number_of_frames_made_from_a_duration_is_not_taken_at_its_word():
    def ends_early(name, frames):
        return video._ends_early(video.Clip(Path(name), (4, 4), 25.0, 100), frames)

    assert [ends_early("a.MP4", n) for n in (99, 100, 101)] == [True, False, False]
    assert [ends_early("a.mkv", n) for n in (74, 75, 100)] == [True, False, False]
    assert not video._ends_early(video.Clip(Path("a.mp4"), (4, 4), 25.0, None), 1)


@pytest.mark.parametrize("size", [(64, 95), (63, 96), (1, 1), (2, 200)])
def test_odd_sides_are_made_even(confseg, run, tmp_path, size):
    frames = [np.full((*size, 3), 40 * number, np.uint8) for number in range(3)]
    clip = tmp_path / "clip.avi"  # by OpenCV itself: through FFmpeg it cuts odd sides
    writer = cv2.VideoWriter(str(clip), cv2.CAP_OPENCV_MJPEG, cv2.VideoWriter_fourcc(*"MJPG"), 25, size[::-1])
    for frame in frames:
        writer.write(frame)
    writer.release()
    assert decoded(clip)[0].shape[:2] == size
    assert confseg("predict", run, clip, "--frames", "--output", "out")[0] == 0
    assert read("out/labels/clip/000000.png").shape == size
    overlays = decoded("out/videos/clip.mp4")
    assert len(overlays) == 3 and overlays[0].shape[:2] == tuple(side + side % 2 for side in size)


def test_without_mpeg_4_it_is_motion_jpeg(confseg, run, scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_CODECS", (("none", ".mp4"), ("MJPG", ".avi")))
    clip = make(tmp_path / "clip.v1.avi", scenes)
    code, out, _ = confseg("predict", run, clip, "--output", "out")
    assert code == 0 and "out/videos/clip.v1.avi (MJPG)" in out
    frame = decoded(clip)[2]
    assert confseg("predict", run, clip, "--frames", "--output", "out")[0] == 0
    expected = figures.overlay(frame, read("out/labels/clip.v1/000002.png"), CITYSCAPES)
    assert abs(decoded("out/videos/clip.v1.avi")[2] - expected.astype(int)).mean() < 12


def test_user_mistakes(confseg, run, scenes, tmp_path):
    clip = make(tmp_path / "in" / "clip.avi", scenes)
    for name, content in (("text.mp4", b"no video"), ("empty.mp4", b""), ("head.avi", clip.read_bytes()[:500])):
        path = tmp_path / "in" / name
        path.write_bytes(content)
        refused(confseg("predict", run, clip, path, "--output", "out"), path, "no frame can be read")
        if path.suffix == ".mp4":
            alone = subprocess.run(  # FFmpeg takes to silence when it is first used, in this process by the test itself
                [sys.executable, "-c", "from gluon_confseg.cli import main; main()", "predict", run, path, "--cpu"],
                capture_output=True,
                text=True,
                check=False,
            )
            assert alone.returncode == 2 and len(alone.stderr.splitlines()) == 1, alone.stderr
        path.unlink()
    refused(confseg("predict", run, tmp_path / "none.mp4"), "no video file", "none.mp4")
    other = tmp_path / "other" / "clip.mp4"
    other.parent.mkdir()
    shutil.copy(clip, other)
    refused(confseg("predict", run, clip, other, "--output", "out"), clip, other, "would both be written as clip")
    refused(confseg("predict", run, tmp_path / "in", "--output", "out"), "no image found")
    cv2.imwrite(str(tmp_path / "in" / "clip.png"), scenes[0])
    (tmp_path / "deep" / "clip").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "deep" / "clip" / "a.png"), scenes[0])
    refused(confseg("predict", run, clip, tmp_path / "deep", "--output", "out"), "a.png", clip, "rename")
    (tmp_path / "videos").mkdir()
    shutil.copy(clip, tmp_path / "videos" / "clip.avi")
    refused(confseg("predict", run, "videos/clip.avi", "--output", "."), "videos/clip.avi is where results go")
    assert not (tmp_path / "out").exists()


def test_frames_that_do_not_reach_the_disk(confseg, run, scenes, tmp_path, monkeypatch):
    class Full:
        def __init__(self, path, fourcc, rate, size):
            self._writer = WRITER(path, fourcc, rate, size)
            self._frames = 0

        def write(self, frame):
            self._frames += 1
            if self._frames < 4:
                self._writer.write(frame)

        def isOpened(self):
            return self._writer.isOpened()

        def release(self):
            self._writer.release()

    WRITER = cv2.VideoWriter
    clip = make(tmp_path / "clip.avi", scenes)
    monkeypatch.setattr(cv2, "VideoWriter", Full)
    refused(confseg("predict", run, clip, "--output", "out"), "clip.mp4", "3 of 8 frames", "free space")
    assert written(Path("out")) == []


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\n{}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile {}\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_does_not_lead_to_other_files(tmp_path, kind):
    make(tmp_path / "other.ts", [np.full((16, 16, 3), 200, np.uint8)] * 5, "mp4v", 5)
    (tmp_path / "a.mp4").write_text(PLAYLISTS[kind].format("other.ts"))
    assert decoded(tmp_path / "a.mp4")  # so FFmpeg follows it
    with pytest.raises(ConfsegError, match="a.mp4: no frame can be read"):
        video.find_clips([tmp_path / "a.mp4"])
