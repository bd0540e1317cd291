"""The distinct layer shapes of SD1.5, SDXL and Flux, their text encoders' included: (out, in * kernel)."""

from __future__ import annotations

# (out, in * kernel): attention, feed-forward, projections, 1x1 and 3x3 convolutions, time and text projections.
_UNET_WIDTHS = (320, 640, 1280)
SD15 = {
    *((w, w) for w in _UNET_WIDTHS),
    *((w, 768) for w in _UNET_WIDTHS),
    *((8 * w, w) for w in _UNET_WIDTHS),
    *((w, 4 * w) for w in _UNET_WIDTHS),
    *((w, 1280) for w in _UNET_WIDTHS),
    *((out, 9 * inner) for out, inner in (
        (320, 4), (320, 320), (640, 320), (640, 640), (1280, 640), (1280, 1280), (1280, 2560),
        (1280, 1920), (640, 1920), (640, 1280), (640, 960), (320, 960), (320, 640), (4, 320),
    )),
    *((out, inner) for out, inner in (
        (640, 320), (1280, 640), (1280, 2560), (1280, 1920), (640, 1920), (640, 1280), (640, 960),
        (320, 960), (320, 640), (1280, 320), (768, 768), (3072, 768), (768, 3072),
    )),
}  # fmt: skip
SDXL = {
    *((w, w) for w in _UNET_WIDTHS),
    *((w, 2048) for w in (640, 1280)),
    *((8 * w, w) for w in (640, 1280)),
    *((w, 4 * w) for w in (640, 1280)),
    (1280, 2816), (5120, 1280), (1280, 1280),
    *((out, 9 * inner) for out, inner in (
        (320, 4), (320, 320), (640, 320), (640, 640), (1280, 640), (1280, 1280), (1280, 2560),
        (1280, 1920), (640, 1920), (640, 1280), (640, 960), (320, 960), (320, 640), (4, 320),
    )),
}  # fmt: skip
FLUX = {
    (9216, 3072), (3072, 3072), (12288, 3072), (3072, 12288), (21504, 3072), (3072, 15360),
    (18432, 3072), (9216, 3072), (6144, 3072), (3072, 64), (64, 3072), (3072, 4096), (3072, 256),
    (3072, 768), (768, 768), (3072, 768), (768, 3072),
}  # fmt: skip
ALL = sorted(SD15 | SDXL | FLUX)
