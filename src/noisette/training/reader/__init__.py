"""Train the reader of scenes: `python -m noisette.training.reader OUT`.

Scenes are rendered once, to shards on the disk; then the network is trained on them, gently disturbed, and
on pictures that show nothing; then it is measured on renders of its own. Each part goes on where it stopped.
"""
