"""mmdet_r2: two-stage detection and segmentation with Res2Net, ResNeSt and ResNet.

Importing this package needs nothing beyond the standard library; the parts that need torch,
mmengine or mmcv import them themselves.
"""

import os

__version__ = '0.1.0'

# OpenMP's idle threads spin, and steal the cores from whatever else runs: beside one busy process a
# training step on the CPU takes three times as long. Short spins cost 2 % of an idle machine. Read
# when torch is imported.
if not os.environ.keys() & {'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'}:
    os.environ['GOMP_SPINCOUNT'] = '3000'
