"""A picture of the dataset in its bucket, as the VAE wants it, and the weight of the loss over it."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from ..errors import DatasetError
from .buckets import Placement
from .dataset import DatasetSettings, TrainImage
from .measures import content_digest
from .pictures import Picture, from_array, open_mask, open_picture


def bucket_pixels(
    image: TrainImage, placement: Placement, place: float = 0.5, mirrored: bool = False
) -> torch.Tensor:
    """(height, width, 3) floats 0..1 of the bucket's size: what an IMAGE socket holds, without its batch.

    place: where along the side that is too long the crop lies, 0 to 1. Raises DatasetError if the file is gone
    or not what the dataset was made from.
    """
    return _tensor(_placed(_picture(image).rgb, placement, place, mirrored))


def bucket_weight(
    image: TrainImage,
    placement: Placement,
    settings: DatasetSettings,
    place: float = 0.5,
    mirrored: bool = False,
) -> torch.Tensor | None:
    """(height, width) weights of the loss: settings.outside where the mask is black, 1 where it is white.

    A mask picture goes before the picture's own alpha. None where there is neither, or masks are switched off.
    """
    if settings.masks == "off":
        return None
    mask = _mask(image)
    if mask is None:
        return None
    covered = _tensor(_placed(mask.resize(placement.size), placement, place, mirrored))
    return settings.outside + (1 - settings.outside) * covered


def _picture(image: TrainImage) -> Picture:
    if isinstance(image.source, np.ndarray):
        return from_array(image.source)
    picture = open_picture(image.source, image.name)
    if content_digest(picture) != image.measures.sha256:
        raise DatasetError(
            f"{image.name}: the file changed after the dataset was read. Run the dataset node again."
        )
    return picture


def _mask(image: TrainImage) -> Image.Image | None:
    if image.mask is None:
        return _picture(image).alpha if image.measures.has_alpha else None
    if isinstance(image.mask, np.ndarray):
        return Image.fromarray(image.mask)
    return open_mask(image.mask, f"mask of {image.name}")


def _placed(image: Image.Image, placement: Placement, place: float, mirrored: bool) -> Image.Image:
    resized = image.resize(
        placement.bucket, Image.Resampling.LANCZOS, box=placement.box(place), reducing_gap=3.0
    )
    return resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else resized


def _tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).astype(np.float32) / 255)
