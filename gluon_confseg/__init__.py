"""Networks that reduce confusion errors in semantic segmentation (Geng et al. 2018), for MXNet/Gluon."""

__version__ = "0.1.0"
