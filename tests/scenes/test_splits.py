from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
from collections import Counter

import pytest

from noisette.errors import UserError
from noisette.scenes.constraints import RELATIONS, relations
from noisette.scenes.sampling import sample_scene
from noisette.scenes.scene import COLORS, SHAPES, Object, Scene
from noisette.scenes.splits import (
    SPLITS,
    belongs,
    facts,
    held_out_pairs,
    held_out_relations,
    is_held_out_relation,
)

PAIRS = list(itertools.product(SHAPES, COLORS))
MANY = 5_000


def pairs_of(scene: Scene) -> list[tuple[str, str]]:
    return [(thing.shape, thing.color) for thing in scene.objects]


def shows_held_out(scene: Scene) -> bool:
    """By the plain reading of the rules, without the functions under test that the sampler uses."""
    pairs = pairs_of(scene)
    related = (is_held_out_relation(pairs[r.subject], r.kind, pairs[r.object]) for r in relations(scene))
    return bool(set(pairs) & held_out_pairs()) or any(related)


def test_a_tenth_of_the_pairs_is_held_out_and_leaves_every_word_in_training() -> None:
    held = held_out_pairs()
    assert len(held) == 7 and held <= set(PAIRS)
    assert sorted(shape for shape, _ in held) == sorted(SHAPES)
    assert len({color for _, color in held}) == 7


def test_a_tenth_of_the_relations_is_held_out_of_every_kind() -> None:
    held = list(held_out_relations())
    assert len(held) == len(set(held))
    kinds = Counter(kind for _, kind, _ in held)
    assert set(kinds) == {"left of", "in front of", "on top of"}
    for count in kinds.values():
        assert 0.09 < count / len(PAIRS) ** 2 < 0.11
    assert 0.095 < len(held) / (3 * len(PAIRS) ** 2) < 0.105
    assert len({a for a, _, _ in held} & {b for _, _, b in held}) == len(PAIRS)


def test_a_relation_and_its_inverse_are_one_fact() -> None:
    for a, b in itertools.product(PAIRS, PAIRS):
        assert is_held_out_relation(a, "left of", b) == is_held_out_relation(b, "right of", a)
        assert is_held_out_relation(a, "behind", b) == is_held_out_relation(b, "in front of", a)
    ways = [(is_held_out_relation(a, "left of", b), is_held_out_relation(b, "left of", a)) for a, b in
            itertools.combinations(PAIRS, 2)]  # fmt: skip
    assert any(one != other for one, other in ways), "left of and right of are different facts"


def test_the_hash_is_the_one_documented() -> None:
    for a, kind, b in [(PAIRS[3], "left of", PAIRS[40]), (PAIRS[69], "on top of", PAIRS[10])]:
        said = f"a {a[1]} {a[0]} {kind} a {b[1]} {b[0]}".encode()
        number = int.from_bytes(hashlib.blake2b(said, digest_size=8).digest(), "big")
        assert is_held_out_relation(a, kind, b) == (number % 10 == 0)


def test_the_held_out_never_change() -> None:
    listed = "\n".join(map(repr, sorted(held_out_relations())))
    assert hashlib.sha256(listed.encode()).hexdigest()[:16] == "aabceb32cdf3606c"
    assert ("cube", "purple") in held_out_pairs()


def test_facts_tell_each_relation_once() -> None:
    for seed in range(100):
        scene = sample_scene(seed)
        told = facts(scene)
        assert len(told) == len(set(told))
        inverse = {"left of": "right of", "in front of": "behind"}
        both = {*told, *((j, inverse[k], i) for i, k, j in told if k in inverse)}
        assert both == {(r.subject, r.kind, r.object) for r in relations(scene)}


@pytest.mark.parametrize("split", ["train", "test"])
def test_what_is_held_out_never_appears_in_training(split: str) -> None:
    for seed in range(MANY):
        scene = sample_scene(seed, split=split)
        assert not shows_held_out(scene) and belongs(scene, split) and not belongs(scene, "novel")


def test_every_novel_scene_shows_something_held_out() -> None:
    for seed in range(MANY // 5):
        scene = sample_scene(seed, split="novel")
        assert shows_held_out(scene) and belongs(scene, "novel") and not belongs(scene, "train")


def test_train_and_test_share_no_scene() -> None:
    train, test = (
        {sample_scene(seed, split=s).to_json() for seed in range(1_000)} for s in ("train", "test")
    )
    assert len(train) == len(test) == 1_000 and not train & test


def test_all_the_rest_appears_in_training() -> None:
    seen: Counter[tuple[str, str]] = Counter()
    for seed in range(2_000):
        seen.update(pairs_of(sample_scene(seed, split="train")))
    assert set(seen) == set(PAIRS) - held_out_pairs()
    assert min(seen.values()) > 0.3 * sum(seen.values()) / len(seen)


def test_without_a_split_a_tenth_of_the_objects_is_held_out() -> None:
    things = [pair for seed in range(2_000) for pair in pairs_of(sample_scene(seed))]
    share = sum(pair in held_out_pairs() for pair in things) / len(things)
    assert 0.085 < share < 0.115


def test_motion_and_constraints_leave_the_split_as_it_is() -> None:
    for seed in range(200):
        assert not shows_held_out(sample_scene(seed, split="train", motion=True, light="night", count=3))


def test_what_does_not_exist_is_refused() -> None:
    scene = Scene((Object("cube"),))
    with pytest.raises(UserError, match="validation"):
        belongs(scene, "validation")
    with pytest.raises(UserError, match="pyramid"):
        is_held_out_relation(("pyramid", "red"), RELATIONS[0], ("cube", "red"))
    with pytest.raises(UserError, match="near"):
        is_held_out_relation(("cube", "red"), "near", ("cube", "red"))
    assert belongs(scene, "all") and set(SPLITS) == {"train", "test", "novel", "all"}


def test_another_process_agrees() -> None:
    code = (
        "from noisette.scenes.sampling import sample_scene; import hashlib;"
        "print(hashlib.sha256(''.join(sample_scene(i, split='train', motion=i % 2 > 0).to_json()"
        " for i in range(40)).encode()).hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": s},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for s in ("1", "2")
    ]
    text = "".join(sample_scene(i, split="train", motion=i % 2 > 0).to_json() for i in range(40))
    assert runs == [hashlib.sha256(text.encode()).hexdigest() + "\n"] * 2
