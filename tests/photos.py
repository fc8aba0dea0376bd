"Where real photographs and ImageNet weights are, on a machine that has them"
import os
from pathlib import Path
import pytest

PHOTOS = Path(os.environ['BEAR_PHOTOS']) if os.environ.get('BEAR_PHOTOS') else None
needs_photos = pytest.mark.skipif(not PHOTOS, reason='BEAR_PHOTOS names no folder of real photographs')
needs_weights = pytest.mark.skipif(not (PHOTOS and os.environ.get('TORCH_HOME')), reason='BEAR_PHOTOS and TORCH_HOME name no photographs and weights')
