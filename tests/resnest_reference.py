"""ResNeSt as two other implementations compute it: weights, images, and how numbers are recorded.

The weights are functions of their names in the fork (see golden.py), so only samples of the results
are stored, in ``tests/data/resnest.npz``; ``test_models_resnest.py`` compares them with ours. They
were made by

    PYTHON_WITH_MMDETECTION tests/resnest_reference.py tests/data/resnest.npz --golden FOLDER

where FOLDER has the records of the ResNeSt fork of detectron2 (``A_faster_rcnn_s50.npz`` and
``C_faster_rcnn_s50_dcnv2.npz``); without ``--golden`` only mmdetection's numbers are written. Needs
numpy, torch, and Pillow for the image; the recording also needs mmdetection 3.x.
"""

import argparse
import json
import re
import zlib
from pathlib import Path

import numpy as np
from golden import golden_fill

SAMPLES = 48
LAST_THREE = (False, True, True, True)

# Options of mmdetection's ResNeSt.
CASES = {
    's50': dict(depth=50, base_width=64),
    's50 radix 1': dict(depth=50, radix=1),
    's50 radix 3': dict(depth=50, radix=3, base_channels=48, reduction_factor=6),
    's50 4s2x40d': dict(depth=50, radix=4, groups=2, base_width=40),
    's50 1s4x24d': dict(depth=50, radix=1, groups=4, base_width=24),
    's50 caffe': dict(depth=50, style='caffe'),
    's50 strided': dict(depth=50, avg_down_stride=False),
    's50 dilated': dict(depth=50, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
    's50 dcn': dict(depth=50, dcn=dict(type='DCN', deform_groups=1), stage_with_dcn=LAST_THREE),
    's50 2x40d dcnv2': dict(
        depth=50,
        groups=2,
        base_width=40,
        dcn=dict(type='DCNv2', deform_groups=2),
        stage_with_dcn=LAST_THREE,
    ),
    's101': dict(depth=101, stem_channels=128),
    's200': dict(depth=200, stem_channels=128),
}
INITIALISED = ('s50', 's50 2x40d dcnv2')
GRADIENTS = (
    'stem.0.weight',
    'layer1.0.conv2.conv.weight',
    'layer2.0.conv2.fc1.weight',
    'layer2.0.conv2.fc2.bias',
    'layer3.1.conv2.bn0.weight',
    'layer3.0.downsample.1.weight',
    'layer4.2.conv2.bn1.bias',
    'layer4.2.conv3.weight',
)
STATISTICS = ('layer1.0.conv2.bn0.running_var', 'layer3.2.conv2.bn1.running_mean')

# detectron2-format records: file, and the options of our backbone.
GOLDEN = {
    'A': ('A_faster_rcnn_s50', dict()),
    'C': (
        'C_faster_rcnn_s50_dcnv2',
        dict(dcn=dict(type='DCNv2', deform_groups=2, offset_groups=2), stage_with_dcn=LAST_THREE),
    ),
}
MEAN, STD = (123.68, 116.779, 103.939), (58.393, 57.12, 57.375)  # RGB


def random_state(name: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(name.encode()))


def detectron2_name(key: str) -> str:
    """What the fork calls a tensor of our backbone."""
    key = re.sub(r'^stem\.([036])\.', lambda m: f'stem.conv1_{int(m[1]) // 3 + 1}.', key)
    key = re.sub(r'^stem\.([147])\.', lambda m: f'stem.conv1_{int(m[1]) // 3 + 1}.norm.', key)
    key = re.sub(r'^layer(\d)\.', lambda m: f'res{int(m[1]) + 1}.', key)
    key = re.sub(r'^(res\d\.\d+)\.bn([13])\.', r'\1.conv\2.norm.', key)
    key = key.replace('.conv2.conv.conv_offset.', '.conv2_offset.')
    key = key.replace('.downsample.1.', '.shortcut.').replace('.downsample.2.', '.shortcut.norm.')
    return f'backbone.bottom_up.{key}'


def images() -> np.ndarray:
    """float32 (2, 3, 70, 90), normalised; sides that no stride divides."""
    return random_state('images').standard_normal((2, 3, 70, 90)).astype(np.float32)


def golden_image() -> np.ndarray:
    """The records' network input, float32 (1, 3, 320, 448): drawn, resized, normalised, padded."""
    from PIL import Image

    height, width = 240, 333
    draw = np.random.RandomState(7)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    y, x = y / height, x / width
    picture = np.zeros((height, width, 3))
    for channel in range(3):  # waves, then half-transparent rectangles
        wave = np.zeros((height, width))
        for _ in range(5):
            fx, fy = draw.uniform(-3, 3, 2)
            amplitude, phase = draw.uniform(0.3, 1.0), draw.uniform(0, 2 * np.pi)
            wave += amplitude * np.sin(2 * np.pi * (fx * x + fy * y) + phase)
        picture[:, :, channel] = 128 + 35 * wave
    for _ in range(28):
        h, w = int(height * draw.uniform(0.06, 0.45)), int(width * draw.uniform(0.06, 0.45))
        top, left = draw.randint(0, height - h), draw.randint(0, width - w)
        colour, opacity = draw.uniform(0, 255, 3), draw.uniform(0.5, 1.0)
        window = picture[top : top + h, left : left + w]
        window[:] = (1 - opacity) * window + opacity * colour
    picture = np.clip(np.round(picture), 0, 255).astype(np.uint8)
    resized = np.asarray(Image.fromarray(picture).resize((433, 312), Image.Resampling.BILINEAR))
    mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
    padded = np.zeros((1, 3, 320, 448), np.float32)
    padded[0, :, :312, :433] = ((resized.astype(np.float32) - mean) / std).transpose(2, 0, 1)
    return padded


def sample(name: str, array: np.ndarray) -> np.ndarray:
    """float32: the array's mean and standard deviation, then some of its values."""
    array = np.asarray(array)
    where = random_state(name).randint(0, array.size, min(SAMPLES, array.size))
    values = array.reshape(-1)[where]
    return np.array([array.mean(dtype=np.float64), array.std(dtype=np.float64), *values], 'f4')


def deviation(found: np.ndarray, stored: np.ndarray) -> float:
    """Largest difference of two samples, in standard deviations of the array."""
    return float(np.abs(found - stored).max() / stored[1])


# -------------------------------------------------------------------------------------- recording


def load(model) -> None:
    """Fill every tensor of a backbone as the fork's records were."""
    import torch

    state = model.state_dict()
    for key, value in state.items():
        filled = golden_fill(detectron2_name(key), tuple(value.shape), 'A')
        state[key] = torch.from_numpy(filled)
    model.load_state_dict(state)


def outputs(model) -> dict[str, np.ndarray]:
    """Samples of a filled model's feature maps."""
    import torch

    model.eval()  # mmdetection's returns nothing
    with torch.no_grad():
        maps = model(torch.from_numpy(images()))
    return {str(i): sample(str(i), feature.numpy()) for i, feature in enumerate(maps)}


def training_step(model) -> dict[str, np.ndarray]:
    """Samples of gradients and running statistics after one step with statistics of the batch.

    In float64: the attention's norm sees one value per image, where gradients are ill-conditioned.
    """
    import torch

    model.double().train()
    x = torch.from_numpy(images()).double()
    sum(feature.square().mean() for feature in model(torch.cat([x, x.flip(3) * 2]))).backward()
    parameters, state = dict(model.named_parameters()), model.state_dict()
    found = {key: parameters[key].grad for key in GRADIENTS}
    found |= {key: state[key] for key in STATISTICS}
    return {key: sample(key, value.detach().numpy()) for key, value in found.items()}


def initial(model) -> np.ndarray:
    """float32 (parameters, 3): mean, standard deviation and largest magnitude."""
    model.init_weights()
    rows = []
    for parameter in model.parameters():
        value = parameter.detach().double()
        rows.append([value.mean(), value.std(), value.abs().max()])
    return np.array(rows, 'f4')


def describe(model) -> np.ndarray:
    """Names and shapes of the state dict, in order, as bytes."""
    keys = [[key, list(value.shape)] for key, value in model.state_dict().items()]
    return np.frombuffer(json.dumps(keys).encode(), np.uint8)


def record_mmdetection() -> dict[str, np.ndarray]:
    import torch
    from mmdet.models.backbones import ResNeSt

    torch.set_num_threads(1)
    arrays = {}
    for name, options in CASES.items():
        model = ResNeSt(**json.loads(json.dumps(options)))
        load(model)
        arrays[f'{name}/keys'] = describe(model)
        arrays |= {f'{name}/{key}': value for key, value in outputs(model).items()}
    model = ResNeSt(**CASES['s50'], norm_eval=False)
    load(model)
    arrays |= {f'training/{key}': value for key, value in training_step(model).items()}
    for name in INITIALISED:
        torch.manual_seed(0)
        model = ResNeSt(**json.loads(json.dumps(CASES[name])))
        arrays[f'{name}/initial'] = initial(model)
    return arrays


def record_golden(folder: Path) -> dict[str, np.ndarray]:
    """The first samples of the fork's records, with their positions."""
    arrays = {}
    for letter, (file, _) in GOLDEN.items():
        with np.load(folder / f'{file}.npz') as stored:
            names = [key[:-4] for key in stored if key.endswith('/val')]
            names = [name for name in names if name.startswith(('net_input', 'module', 'backbone'))]
            for name in names:
                arrays[f'{letter}/{name}'] = np.concatenate(
                    [stored[f'{name}/mean_std'], stored[f'{name}/val'][:SAMPLES]]
                )
                arrays[f'{letter}/{name}/where'] = stored[f'{name}/pos'][:SAMPLES]
    return arrays


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', type=Path)
    parser.add_argument('--golden', type=Path)
    args = parser.parse_args()
    recorded = record_mmdetection()
    if args.golden:
        recorded |= record_golden(args.golden)
    np.savez_compressed(args.out, **recorded)
