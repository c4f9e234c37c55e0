# maskrcnn-benchmark's 2x.
train_cfg = dict(type='IterBasedTrainLoop', max_iters=180000, val_interval=10000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

# The rate for 16 images per step (8 GPUs x 2); `tools/train.py --auto-scale-lr` adapts it to another
# number, `--auto-scale-schedule` the number of steps too. Biases learn twice as fast and do not decay.
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='GroupedOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=0.0001),
    paramwise_cfg=dict(bias_lr_mult=2.0, bias_decay_mult=0.0),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)

param_scheduler = [
    # From a third to the full rate, which is reached end - begin - 1 steps later: after 500.
    dict(type='LinearLR', start_factor=1 / 3, by_epoch=False, begin=0, end=501),
    dict(
        type='MultiStepLR',
        begin=0,
        end=180000,
        by_epoch=False,
        milestones=[120000, 160000],
        gamma=0.1,
    ),
]
