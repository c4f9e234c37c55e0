"""What error messages leave unsaid: for ``messages.py``.

``CURES`` says of a message that contains the key what causes it, or what to do; a message that
gives advice of its own needs none.
"""

from typing import NamedTuple


class Topic(NamedTuple):
    """A section of the page: the modules whose messages it has, and what holds of all of them;
    ``cures`` says that this is what to do about each."""

    title: str
    modules: tuple[str, ...]
    text: str = ''
    cures: bool = False


TOPICS = (
    Topic(
        'Installing',
        ('tools',),
        'From `python3 tools/install.py` and `make`; more under [Installing](install.md).',
    ),
    Topic('Configs', ('config', 'config_check', 'config_keys', 'registry')),
    Topic('Parts of a model', ('models', 'ops', 'structures')),
    Topic('Training', ('apis.train', 'engine')),
    Topic('Checkpoints and downloads', ('zoo', 'apis.models')),
    Topic(
        'Data sets',
        ('datasets', 'files'),
        'Paths in configs are seen from the folder in which the command runs; `data_root` is put '
        'in front of `ann_file` and of each `data_prefix`.',
    ),
    Topic(
        'Panoptic and semantic maps',
        (
            'datasets.coco_panoptic',
            'datasets.semantic_maps',
            'datasets.transforms.panoptic',
            'evaluation.panoptic_format',
            'evaluation.panoptic_quality',
        ),
        'A JSON file and its PNGs must be of one version: write both anew from their source. The '
        'format is described under [Panoptic data](your_data.md#panoptic-data).',
        cures=True,
    ),
    Topic('Pascal VOC', ('datasets.voc', 'datasets.voc_xml', 'evaluation.voc')),
    Topic(
        'Parts of COCO 2014',
        ('datasets.coco_splits',),
        'From `tools/dataset_converters/coco_minival.py`: take the official annotation files as '
        'they were published, and check the path and the list of ids.',
        cures=True,
    ),
    Topic(
        'Converting annotations',
        ('datasets.convert',),
        'From `to_coco.py` and `from_coco.py`: correct the file, row or object that is named '
        'first. `--skip-bad` leaves such objects out and counts them.',
        cures=True,
    ),
    Topic('Checking data', ('datasets.check',)),
    Topic('Testing and metrics', ('apis.test', 'apis.tta', 'models.tta', 'evaluation')),
    Topic('Inference', ('apis', 'inference')),
    Topic('Analysis and drawings', ('analysis', 'visualization')),
)

CURES: dict[str, str] = {
    # Installing
    'mmcv did not compile': 'The first errors of the compiler stand above. Out of memory: '
    '`--jobs 1`. Another release: `--mmcv`.',
    'pip failed': "pip's own words stand above; index, proxy and certificates are those of its "
    'configuration.',
    'was built without compiled operators': 'mmcv was built without torch in sight: `--rebuild`.',
    'Python 3.10 or newer': 'Name a newer Python: `make install PYTHON=python3.12`.',
    # Configs
    'no such config file': 'A path is seen from the current folder; a name is that of a file in '
    '`configs/`, or of mmdetection 3.x. The nearest names are listed where there are any.',
    "another project's": 'The config is for mmsegmentation, mmyolo or another project.',
    'a config is a .py': 'Give the config, not a checkpoint or a folder.',
    'has to be copied beside': 'Only files can be inherited: copy the base config and its bases.',
    ': cannot be read: NAME': 'The file fails when it is run as Python: the line is named.',
    '--cfg-options ...: ...': 'Write `key=value`, lists as `key="[1,2]"`, texts without quotes.',
    'cannot be imported': 'Put the folder that contains the module on `PYTHONPATH`.',
    'has no such key': 'A misspelt key, or one of another version: take the suggestion, or remove '
    'it. The place where it is set is named.',
    'is not registered': 'A misspelt type, a class of yours whose module `custom_imports` does not '
    'name, or a part of mmdetection that is not here.',
    'is neither a name nor a class': '`type` is a name in quotes.',
    'assigning it here changes nothing': 'Set the keys for which the base file uses the variable.',
    'nothing reads this key': 'A misspelt key, or one of mmdetection 2.x: '
    '[the new names](coming_from_mmdetection.md).',
    'has no effect from the command line': 'Set the keys that use the variable, each by itself.',
    'boxes cannot be mapped back to': 'Name the keys in `PackDetInputs(meta_keys=...)`.',
    # Parts of a model
    'does not divide': 'Choose a divisor of the number of channels.',
    'backbone.depth is': 'Take one of the depths listed.',
    'values, but num_stages': 'Give one value per stage.',
    'backbone.dcn: ': 'Correct the argument of `dcn` that is named.',
    'offset is VALUE in': 'Set `offset=1` in all parts for models that count pixels, else in none.',
    'the heads disagree': 'Set `num_classes`, `num_things_classes` and `num_stuff_classes` to '
    'what `metainfo` has.',
    'do not fit the NUM_INS inputs': '`in_channels` has an entry for each map of the backbone.',
    'exclude each other': 'Keep one of the two.',
    'takes no ignore_index': 'Remove them from the mask loss.',
    'only BboxOverlaps2D': 'Remove `iou_calculator`.',
    'only loss_cls is known': 'Remove `loss_key`.',
    'test_cfg.panoptic....: no such key': 'A misspelt key of `test_cfg.panoptic`.',
    'semantic_head takes levels': 'Lower `num_ins` or `start_level` of the semantic head.',
    'the batch holds no image': 'An empty list was given to the detector.',
    'images but ... data samples': 'Give a data sample for each image.',
    'cannot both be False': 'Keep `with_cls` or `with_reg`.',
    'linear layers end the feature map': 'Set `num_shared_fcs=0`, or leave the branch convolutions '
    'out.',
    "only dict(type='Linear')": 'Remove the key.',
    'only RoIAlign is implemented': "Set `roi_layer.type='RoIAlign'`.",
    'RoIAlign takes output_size': 'Remove the other arguments of `roi_layer`.',
    'StandardRoIHead has one stage': 'A list is for a cascade; give one dictionary.',
    'has no effect with centers': 'Remove one of the two arguments.',
    'strides but was given': '`strides` of the anchors must have an entry per map of the neck.',
    'inside each level is implemented': 'Take `nms` of type `nms`.',
    'has the label WRONG': 'Convert the maps, or correct `num_classes` of the head: '
    '[stuff maps](your_data.md#stuff-maps).',
    'without model.roi_head': 'Test the RPN alone, without `--tta` and with `--eval proposal`.',
    # Training
    'is missing, needed to train': 'The config has no data, optimiser or loop: inherit them from '
    '`configs/_base_`.',
    "it replaces 'OptimWrapper' only": 'Leave `--amp` out: the config has a wrapper of its own.',
    'base_batch_size': "Add `auto_scale_lr=dict(base_batch_size=16)`, the recipe's batch.",
    '--resume RESUME: no such file': '`--resume` without a path takes the last checkpoint.',
    'optim_wrapper.dtype': 'bfloat16 is the default where the hardware has it.',
    'is a factor of it': 'Set the base value in `optim_wrapper.optimizer`.',
    'save_best: no metric': 'Take one of the metrics listed, or `auto`.',
    'likely cause: ': '[Causes and cures](troubleshooting.md#training).',
    # Checkpoints and downloads
    'no published model is called so': 'Take one of the names listed ([all](model_zoo.md)).',
    'neither a checkpoint file nor': 'A misspelt path or name; the nearest are listed.',
    'no such checkpoint file': 'The files of that folder are listed.',
    'is a folder, not a checkpoint': 'Name the file inside it.',
    'no such name': 'The nearest names of this address are listed.',
    'cannot download NAME: ...': 'Each address and its failure are listed. Save the file with a '
    'browser and pass its path, or put it into `$MMDET_R2_ZOO`.',
    "OpenMMLab's format": 'Each model is an entry of the list `Models`.',
    'is not the address of a file': 'The address ends without a file name.',
    'It is copied from': 'The file of the mirror folder has another content than was published.',
    'index of models': 'A damaged `metafile.yml` or `model-index.yml`: take it anew.',
    'does not fit the model exactly': 'The names that are missing, left over or of another shape '
    'are listed: the config of another model, or changed parts.',
    'no tensor begins with': "Correct `init_cfg.prefix`; detectors' backbones are `backbone.`.",
    'not a dictionary of weights': 'Save `model.state_dict()`, not the model or a list.',
    'not a PyTorch checkpoint': 'Another kind of file, or a page with an error saved by a browser.',
    'not a readable checkpoint': 'Another kind of file, or a damaged one: get it again.',
    'permission denied': 'Correct the rights of the file.',
    # Data sets
    'metainfo.classes is empty': 'Name the classes.',
    'more than once': 'Each class has one name and one place.',
    'data_root ROOT does not exist': 'Run from the folder that the path is relative to, or give an '
    'absolute path.',
    'category ids are not unique': 'Files were joined without numbering anew: '
    '`tools/misc/check_dataset.py --fix`.',
    'none of its categories': "The config still has COCO's classes: set `metainfo`.",
    'none of the classes of the config': '`ann_file` of the metric is of other data, or `metainfo` '
    "still has COCO's classes.",
    'MAP_NAME folder FOLDER': 'Correct `data_prefix.seg`.',
    'image folder FOLDER does not exist (data_root': 'Give each part of the path once.',
    'image folder FOLDER': 'Correct the path.',
    'image folder IMAGE_DIR': 'Correct the path.',
    'nor do the next': 'The file names have a folder in front, or miss one.',
    'cannot read annotation file': 'Correct `ann_file`, or the rights of the file.',
    'is not valid JSON': 'The line and column are named; a transfer may have broken off.',
    'not valid JSON': 'Correct the line that is named.',
    'has no id or no name': 'Every category needs both.',
    'two categories are named': 'Join or rename them: labels go by name.',
    'annotation without image_id': 'Every annotation names its image.',
    'CALLED: image ... has no': 'Every image needs `id`, `file_name`, `width` and `height`: '
    '`tools/misc/check_dataset.py --fix`.',
    'CALLED: image id': 'Files were joined without numbering anew: '
    '`tools/misc/check_dataset.py --fix`.',
    'CALLED: annotation id': 'Files were joined without numbering anew: '
    '`tools/misc/check_dataset.py --fix`.',
    'are unreadable so far': 'Copy the images again, or leave them out of the annotations: '
    '[check the data](your_data.md#the-check).',
    'max_objects=MAX_OBJECTS': 'Each must be at least 1.',
    'another image or size': 'The annotations were made on another version of the image.',
    'is not there': 'Copy the image there, or name the folder with `--images`.',
    'cannot read image': 'The file is missing, truncated or of no known format: get it again.',
    'does not suit': 'Sizes in pixels are whole numbers, relative ones lie in (0, 1].',
    "only 'hbox'": 'Rotated boxes are not here: remove `box_type`.',
    'by_box and by_mask are both': 'Keep one of them, or remove the transform.',
    'semantic map PATH': 'Store one 8-bit label per pixel, without scaling: '
    '[stuff maps](your_data.md#stuff-maps).',
    'ConcatDataset.datasets is': 'Name at least one data set.',
    'not a text file in UTF-8': 'Save it as UTF-8.',
    'cannot be written': 'Choose a folder that exists and may be written, on a disk with room.',
    'cannot read KIND': 'Correct the path or the rights of the file.',
    'the same image as number': 'Yield each image once, with all its objects.',
    # Panoptic
    'is not thing_classes followed by': 'Leave `classes` out: it follows from the two others.',
    'not readable as JSON': 'The file is damaged, or of another kind.',
    # Pascal VOC
    'cannot read PATH (data_root': 'Correct the path; all are seen from `data_root`.',
    'line LINE: cannot read': 'Correct the path, or remove the line.',
    'of the XML files does not exist': 'Correct `data_root`, or `ann_subdir`.',
    'no object of its NUM_IMAGES': 'Correct `metainfo.classes`: the names of the files are listed.',
    'ann_file PATH is not a text': 'Give a list of names, such as `ImageSets/Main/trainval.txt`.',
    'has no <size>': 'The size was to be read from the image, which fails: correct either.',
    'not valid XML': 'Write the file anew; the line is named.',
    'is listed already': 'Remove one of the two lines.',
    'outside of 0 to': 'Labels are indices of `metainfo.classes`.',
    # Checking data
    'nothing to check': 'Give a config with data sets, or a COCO file with `--images`.',
    'is not in COCO format': 'Give a file with `images`, `annotations` and `categories`.',
    # Testing
    'which test_evaluator has not': 'Take a metric that is named, or a config with that evaluator.',
    'OPTIONS are for': 'The option does nothing for this evaluator: leave it out.',
    'is missing, needed to test': 'Inherit the test data and evaluator from `configs/_base_`.',
    'has no TestTimeAug': 'Remove `tta_pipeline` for the default views, or see '
    '[Test-time augmentation](tta.md).',
    'labels cannot be mapped by name': 'Rename one of the two classes.',
    'not a COCO annotation file': 'Give the annotations, not results.',
    'annotation ... has no': 'The file is damaged, or has results instead of annotations.',
    'not in the file': 'The files belong to different versions of the data.',
    'which classes are things': 'Name `thing_classes` and `stuff_classes` in `metainfo`.',
    'a panoptic map holds fewer': "COCO's way to write maps allows no more.",
    'no such results file': 'It is what `tools/test.py --out` writes.',
    'not a results file that is safe': 'Write it anew with `tools/test.py --out`.',
    # Inference
    'no file fits it as a pattern': 'Correct the path; patterns stand in quotes.',
    'the folder has no images': 'Subfolders need a pattern: `photos/**/*.jpg`.',
    'cannot be downloaded': "The reason is the server's or the network's: save the file yourself.",
    'pipeline is missing; it says': 'Inherit `test_dataloader` from `configs/_base_/datasets`.',
    'model is missing': 'The config is only a part: give the one that names a `model`.',
    'classes, but the model has': 'Checkpoint and config are for different data: take its config.',
    'a detector that is built already': 'Give weights and device to `init_detector`.',
    'has no category id': 'Give as many ids as the model has classes.',
    'has no category': 'Use the annotation file of the classes that the model was trained on.',
    'cannot be read as a COCO annotation': 'Give the annotations, not results.',
    'the test pipeline gave nothing': 'A transform returned None: transforms that filter are for '
    'training.',
    'the folder cannot be read': 'Correct the rights of the folder.',
    'the test pipeline fails': 'The image does not suit a transform of `test_pipeline`.',
    'no such video file': 'Correct the path.',
    'not a video that OpenCV': 'Convert it to H.264 in MP4.',
    'has no frame that can be': 'Convert it to H.264 in MP4.',
    'videos are written into': 'Take one of the suffixes listed.',
    'cannot be used: ERROR': 'Another program has the port: `--port 0` takes a free one.',
    # Analysis
    'anchor_generator is missing': 'Give the config of a detector with an RPN.',
    'train_dataloader is missing': 'Give the config of the training.',
    'test_dataloader is missing': 'Give the config of the test.',
    'the training data have no boxes': 'Correct `ann_file` and `metainfo.classes`.',
    'cannot be read as an image': 'Give readable images of the data set.',
    'no such Python interpreter': "Give the path of that environment's `bin/python`.",
    'not a COCO results file': 'Write results with `tools/test.py --outfile-prefix`.',
    'two categories of the annotations': 'Rename one of them.',
    'record NUMBER has no': 'The file is of another kind, or was cut.',
    'a picture ends in': 'Name the file so.',
    'there is no display': 'Open the picture that was written.',
    'the folder cannot be made': 'Choose a folder that may be written.',
    'have no pred_instances': 'Write the results anew with `tools/test.py --out`.',
    'pred_instances has no': 'Write the results anew with `tools/test.py --out`.',
    'has no such entry': 'The entries of the log are listed.',
    'no line of a training log': 'Give the work folder of a training.',
    'no such log file': 'Give the work folder, or its `scalars.json`.',
    "no 'time' in any record": 'The log has evaluations only.',
    'not a readable log': 'The file is damaged, or may not be read.',
    'is no record': 'The file is another one.',
    'a published file ends': 'Name the file so.',
    'holds meta and state_dict only': 'Leave `--save-keys` out, or write a .pth file.',
    'reads back with other weights': 'The disk is full or faulty: the file was removed.',
    'no window can be opened': 'Leave `--show` out and name an output folder.',
    'has no entry': 'Take of those that are listed.',
    'has no SPLIT_dataloader': 'Choose another `--split`.',
}
