"""Rewrite a checkpoint in mmdetection 3.x's names and order of classes.

Loading converts by itself: this is for files that other programs shall read too. OUT holds weights
and class names, without optimiser states. IN may be of mmdetection 1.x; of maskrcnn-benchmark and
its fork for Res2Net (with a feature pyramid); of detectron2 and its forks for ResNeSt and Res2Net
(.pth or .pkl; offsets of deformable convolutions become dense); or an ImageNet file of torch,
detectron2 or Caffe2. What the weights do not say (colours, strides, whether boxes count pixels) is
printed with the config to use, and the file remembers where it comes from.
"""

import argparse

EXAMPLES = (
    'convert checkpoint htc_r2_101_v1.pth htc_r2_101.pth',
    'convert checkpoint model_final.pth mask_rcnn_r2_50.pth',
    'convert checkpoint detectron2://ImageNetPretrained/MSRA/R-50.pkl resnet50_msra.pth',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """IN OUT and options."""
    parser.add_argument('in_file', metavar='IN', help='checkpoint file, URL or zoo name')
    parser.add_argument('out_file', metavar='OUT', help='file to write')
    parser.add_argument(
        '--num-classes',
        type=int,
        metavar='N',
        help='outputs of the classifier, background included; read from the file, and an error '
        'where that has another number',
    )


def run(args: argparse.Namespace) -> None:
    """Read, convert, write."""
    from ..engine.checkpoint import write_atomically
    from ..errors import CheckpointError
    from ..zoo import upgrade

    content, text = upgrade(args.in_file)
    outputs = {
        value.shape[0] for key, value in content['state_dict'].items() if 'fc_cls.bias' in key
    }
    if args.num_classes is not None and outputs - {args.num_classes}:
        raise CheckpointError(
            f'{args.in_file}: its classifier has {outputs.pop()} outputs, not the '
            f'{args.num_classes} of --num-classes.'
        )
    try:
        write_atomically(content, args.out_file)
    except OSError as error:
        raise CheckpointError(f'{args.out_file}: cannot be written ({error.strerror}).') from None
    print(text)
    print(f'written to {args.out_file}')
