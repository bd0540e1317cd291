"""Lets the Python part of torchvision be imported beside a CPU build of torch.

The published torchvision wheel is linked against CUDA. Beside a CPU build its library does not
load, so the operators that its Python part refers to do not exist and `import torchvision`
fails. ComfyUI needs only that Python part. dev.py copies this file into its environment, where
a .pth file imports it; it declares the operators, by name only, just before torchvision is first
imported, and does nothing beside a CUDA build.
"""

import sys


class TorchvisionOperators:
    """A finder that finds nothing; it only notices when torchvision is asked for."""

    declared = None

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "torchvision" and cls.declared is None:
            import torch

            if torch.version.cuda is None:
                # Kept on the class: the operators vanish with their library object.
                cls.declared = torch.library.Library("torchvision", "FRAGMENT")
                for operator in ("nms", "qnms"):
                    schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                    cls.declared.define(operator + schema)
        return None


sys.meta_path.insert(0, TorchvisionOperators)
