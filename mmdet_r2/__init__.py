"""mmdet_r2: two-stage detection and segmentation with Res2Net, ResNeSt and ResNet.

Importing this package needs nothing beyond the standard library; the parts that need torch,
mmengine or mmcv import them themselves.
"""

__version__ = '0.1.0'
