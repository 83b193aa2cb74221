"""The reader: what a picture of the scenes world shows, and whether that is what was asked for."""

from noisette.scenes.reader.net import Reader
from noisette.scenes.reader.reading import Reading, Seen, read
from noisette.scenes.reader.scoring import Score, judge, score

__all__ = ["Reader", "Reading", "Score", "Seen", "judge", "read", "score"]
