"""Figures of the original's first published record, typed out: some lines of its log, and
what the DAWNBench entry that was made of it says. From github.com/mzhangatge/imagenet104.
"""

LOG = """\
Data strategy: [{'epoch': 21, 'batch_size': 740, 'image_size': (128, 128), 'data_dir': '160', \
'prefix': 'train'}, {'epoch': 11, 'batch_size': 256, 'image_size': (224, 224), 'data_dir': '320', \
'prefix': 'train'}, {'epoch': 4, 'batch_size': 196, 'image_size': (224, 224), 'data_dir': '320', \
'prefix': 'train'}, {'epoch': 4, 'batch_size': 128, 'image_size': (288, 288), 'data_dir': '320', \
'prefix': 'train'}]
Learning rate strategy:[{'epoch': [0, 6], 'lr_method': 'linear', 'lr': [1.0, 2.0], 'steps': \
[0, 1296]}, {'epoch': [6, 21], 'lr_method': 'linear', 'lr': [2.0, 0.45], 'steps': [1296, 4536]}, \
{'epoch': [21, 32], 'lr_method': 'exp', 'lr': [0.45, 0.02], 'steps': [4536, 11411]}, {'epoch': \
[32, 36], 'lr_method': 'exp', 'lr': [0.02, 0.004], 'steps': [11411, 14679]}, {'epoch': [36, 40], \
'lr_method': 'exp', 'lr': [0.004, 0.002], 'steps': [14679, 19683]}]
Horovod size: Log: 8
Log @train: steps@0 epoch@0.0 im/s@356.66 loss@6.931 total_loss@9.607 lr@1.00000 bs@740 sz@128 \
top5@0.0081 tm@16.60
Log @train: steps@625 epoch@2.9 im/s@14493.47 loss@3.598 total_loss@4.343 lr@1.48225 bs@740 \
sz@128 top5@0.5000 tm@275.59
Log @train: steps@1250 epoch@5.8 im/s@14671.39 loss@3.075 total_loss@4.122 lr@1.96451 bs@740 \
sz@128 top5@0.6203 tm@527.88
Log @train: steps@15000 epoch@36.2 im/s@2477.66 loss@0.627 total_loss@1.113 lr@0.00383 bs@128 \
sz@288 top5@0.9766 tm@6138.70
Log @train: steps@19375 epoch@39.7 im/s@2667.46 loss@0.439 total_loss@0.910 lr@0.00209 bs@128 \
sz@288 top5@0.9844 tm@7820.92
Log: Finished in Log: 7963.819097042084
Log: Validation dataset size: 50000
Log @eval: count@    0 step@    0 top1@0.090 top5@  0.50 loss@  6.91 time@2018-12-30 16:45:16
Log @eval: count@   24 step@15000 top1@75.615 top5@ 92.94 loss@  0.95 time@2018-12-30 18:27:41
Log @eval: count@    2 step@ 1250 top1@23.960 top5@ 46.94 loss@  4.07 time@2018-12-30 16:54:10
Log @eval: count@    1 step@  625 top1@17.127 top5@ 36.88 loss@  4.62 time@2018-12-30 16:49:57
Log @eval: count@   32 step@19681 top1@75.933 top5@ 93.18 loss@  0.94 time@2018-12-30 18:57:41
Log Finished evaluation
Log @eval: count@   31 step@19375 top1@75.915 top5@ 93.28 loss@  0.94 time@2018-12-30 18:55:43
"""

# Epoch, hours, top-1 and top-5 of these checkpoints.
LOG_TSV = [
    (0, 0.004611111, 0.09, 0.5),
    (2.9, 0.076552778, 17.127, 36.88),
    (5.8, 0.146633333, 23.96, 46.94),
    (36.2, 1.705194444, 75.615, 92.94),
    (39.7, 2.172477778, 75.915, 93.28),
    (40, 2.212172222, 75.933, 93.18),
]
