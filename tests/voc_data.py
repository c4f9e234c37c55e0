"""Small data sets in Pascal VOC's layout."""

from pathlib import Path

import cv2
import numpy as np

COLOURS = dict(dog=(40, 60, 220), car=(220, 120, 30), cat=(40, 200, 60))


def voc_object(name, box, difficult=0):
    """An ``<object>``; None for ``difficult`` leaves it out."""
    corners = ''.join(
        f'<{tag}>{value}</{tag}>\n' for tag, value in zip(('xmin', 'ymin', 'xmax', 'ymax'), box)
    )
    mark = '' if difficult is None else f'<difficult>{difficult}</difficult>\n'
    return f'<object>\n<name>{name}</name>\n{mark}<bndbox>\n{corners}</bndbox>\n</object>\n'


def voc_xml(objects, size=(50, 40)):
    """An annotation file; without ``size`` it does not say it."""
    text = '<annotation>\n<filename>any.jpg</filename>\n'
    if size is not None:
        text += f'<size>\n<width>{size[0]}</width>\n<height>{size[1]}</height>\n</size>\n'
    return text + ''.join(voc_object(*thing) for thing in objects) + '</annotation>\n'


def write_voc(root, images, split='trainval', year='VOC2007', size=(50, 40), suffix='.jpg'):
    """``images``: name -> objects, or the text of the XML file; pictures are black."""
    folder = Path(root) / year
    for sub in ('Annotations', 'JPEGImages', 'ImageSets/Main'):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for name, objects in images.items():
        text = objects if isinstance(objects, str) else voc_xml(objects, size)
        (folder / 'Annotations' / f'{name}.xml').write_text(text)
        picture = np.zeros((size[1], size[0], 3), np.uint8)
        cv2.imwrite(str(folder / 'JPEGImages' / f'{name}{suffix}'), picture)
    listing = folder / 'ImageSets' / 'Main' / f'{split}.txt'
    listing.write_text(''.join(f'{name}\n' for name in images))
    return folder


def coloured_voc(root, number, split, year='VOC2007', size=96, seed=0):
    """Images of one or two filled boxes, coloured by class: something a detector can learn."""
    rng = np.random.default_rng(seed)
    images, pictures = {}, {}
    for i in range(number):
        picture = rng.integers(90, 110, (size, size, 3)).astype(np.uint8)
        objects = []
        for column in range(1 + i % 2):
            name = str(rng.choice(list(COLOURS)))
            w, h = rng.integers(size // 4, size // 2 - 4, 2)
            x = int(rng.integers(0, size // 2 - w)) + column * size // 2
            y = int(rng.integers(0, size - h))
            picture[y : y + h, x : x + w] = COLOURS[name]
            objects.append((name, (x + 1, y + 1, x + w, y + h), int(rng.random() < 0.1)))
        name = f'{split}_{i:03d}'
        images[name], pictures[name] = objects, picture
    folder = write_voc(root, images, split, year, (size, size))
    for name, picture in pictures.items():
        cv2.imwrite(str(folder / 'JPEGImages' / f'{name}.jpg'), picture)
