from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers

from noisette.conditioning.pretrained import PretrainedText
from noisette.conditioning.tokenizer import Tokenizer
from noisette.errors import UserError

TEXTS = ["a red cube left of a blue sphere", "", "red"]
CLIP = {
    "vocab_size": 600,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 12,
    "projection_dim": 5,
}


def save_clip(folder: Path, kind: str) -> Path:
    ours = Tokenizer.train(TEXTS * 2, 600, 12)
    ids = {token: i for i, token in enumerate(ours.tokens)}
    peer = transformers.CLIPTokenizer(vocab=ids, merges=list(ours.merges), model_max_length=12)
    peer.save_pretrained(folder)
    ends = {"bos_token_id": ours.bos_token_id, "eos_token_id": ours.eos_token_id}
    if kind == "CLIPModel":
        eyes = {**CLIP, "image_size": 8, "patch_size": 4}
        config = transformers.CLIPConfig(text_config={**CLIP, **ends}, vision_config=eyes, projection_dim=5)
    else:
        config = transformers.CLIPTextConfig(**CLIP, **ends)
    getattr(transformers, kind)(config).save_pretrained(folder)
    return folder


def save_t5(folder: Path, kind: str = "T5EncoderModel") -> Path:
    vocab = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -1.0),
        *((c, -2.0) for c in "abcdeflorstuphn"),
    ]
    transformers.T5Tokenizer(vocab=vocab, extra_ids=0).save_pretrained(folder)
    config = transformers.T5Config(vocab_size=24, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
    getattr(transformers, kind)(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    base = tmp_path_factory.mktemp("encoders")
    kinds = ("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPModel")
    clips = {kind: save_clip(base / kind, kind) for kind in kinds}
    return {**clips, "t5": save_t5(base / "t5")}


@pytest.mark.parametrize("kind", ["CLIPTextModel", "CLIPTextModelWithProjection", "CLIPModel"])
def test_clip_gives_tokens_and_a_pooled_vector_and_no_mask(folders: dict[str, Path], kind: str) -> None:
    encoder = PretrainedText(str(folders[kind]), max_length=12).load("cpu")
    cond = encoder(TEXTS)
    assert set(cond) == {"tokens", "pooled"}
    assert cond["tokens"].shape == (3, 12, 16)
    ids, _ = Tokenizer.load(folders[kind])(TEXTS)
    with torch.no_grad():
        wanted = encoder.model(input_ids=ids)
    assert torch.allclose(cond["tokens"], wanted.last_hidden_state, atol=1e-6)
    projects = kind == "CLIPTextModelWithProjection"
    assert torch.allclose(cond["pooled"], wanted.text_embeds if projects else wanted.pooler_output, atol=1e-6)
    assert cond["pooled"].shape == (3, 5 if projects else 16)


def test_the_penultimate_state_with_and_without_the_final_norm(folders: dict[str, Path]) -> None:
    name = str(folders["CLIPTextModelWithProjection"])
    raw = PretrainedText(name, 12, layer=-2, final_norm=False).load()
    normed = PretrainedText(name, 12, layer=-2).load()
    last = PretrainedText(name, 12).load()
    tokens = raw(TEXTS)["tokens"]
    norm = raw.model.text_model.final_layer_norm
    assert torch.allclose(normed(TEXTS)["tokens"], norm(tokens), atol=1e-6)
    assert not torch.allclose(normed(TEXTS)["tokens"], last(TEXTS)["tokens"], atol=1e-3)
    assert torch.equal(raw(TEXTS)["pooled"], last(TEXTS)["pooled"])


def test_t5_hides_its_padding(folders: dict[str, Path]) -> None:
    encoder = PretrainedText(str(folders["t5"]), max_length=20).load()
    cond = encoder(TEXTS)
    assert set(cond) == {"tokens", "token_mask"}
    assert cond["tokens"].shape == (3, 20, 8) and cond["token_mask"].dtype == torch.bool
    assert cond["token_mask"][0].all() and cond["token_mask"][1].tolist() == [True] + [False] * 19
    longer = PretrainedText(str(folders["t5"]), max_length=30).load()(TEXTS)
    seen = cond["token_mask"][2]
    assert torch.allclose(longer["tokens"][2, :20][seen], cond["tokens"][2][seen], atol=1e-5)


def test_the_encoder_of_a_whole_t5_is_found(folders: dict[str, Path], tmp_path: Path, caplog) -> None:
    encoder = PretrainedText(str(save_t5(tmp_path, "T5ForConditionalGeneration")), 20).load()
    assert type(encoder.model).__name__ == "T5EncoderModel" and "UNEXPECTED" not in caplog.text


def test_is_frozen_and_in_the_precision_asked_for(folders: dict[str, Path]) -> None:
    encoder = PretrainedText(str(folders["t5"]), 20, dtype="bfloat16").load()
    assert not encoder.model.training and not any(p.requires_grad for p in encoder.model.parameters())
    cond = encoder(["red", "\ud83d"])
    assert cond["tokens"].dtype == torch.bfloat16 and not cond["tokens"].requires_grad
    assert not torch.is_inference(cond["tokens"])
    assert encoder.device.type == "cpu"


def test_identity_is_the_weights_and_the_reading_not_the_place(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    spec = PretrainedText(str(folders["t5"]), 20)
    encoder = spec.load()
    encoder(TEXTS)
    copy = shutil.copytree(folders["t5"], tmp_path / "copy")
    assert PretrainedText(str(copy), 20).load().identity == encoder.identity
    others = {
        PretrainedText(spec.name, 21).load().identity,
        PretrainedText(spec.name, 20, layer=-2).load().identity,
        PretrainedText(spec.name, 20, dtype="float16").load().identity,
    }
    changed = spec.load()
    with torch.no_grad():
        changed.model.shared.weight[3, 3] += 1
    assert len(others | {encoder.identity, changed.identity}) == 5


def message_of(spec: PretrainedText) -> str:
    with pytest.raises(UserError) as caught:
        spec.load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_loaded_is_told_in_one_line(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "cannot be loaded" in message_of(PretrainedText(str(tmp_path / "missing")))
    assert "cannot be loaded" in message_of(PretrainedText(str(tmp_path)))
    name = str(folders["t5"])
    assert "has 2 layers, so layer -4" in message_of(PretrainedText(name, layer=-4))
    clip = str(folders["CLIPTextModel"])
    assert "reads 12 tokens, so max_length 77 is too long" in message_of(PretrainedText(clip))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "be online" in message_of(PretrainedText("noisette/there-is-no-such-encoder"))
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "needs transformers: pip install noisette[transformers]" in message_of(PretrainedText(name))


def test_what_is_not_an_option_is_refused() -> None:
    with pytest.raises(UserError, match="dtype 'int8' is not one of float32, float16, bfloat16"):
        PretrainedText("t5", dtype="int8")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="max_length 1 must be at least 2"):
        PretrainedText("t5", max_length=1)


def test_no_pickle_and_no_code_is_read(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["t5"], tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    model = transformers.T5EncoderModel.from_pretrained(folders["t5"])
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert "cannot be loaded" in message_of(PretrainedText(str(folder), 20))
    code = shutil.copytree(folders["t5"], tmp_path / "code")
    config = json.loads((code / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Model"}}
    (code / "config.json").write_text(json.dumps(config))
    (code / "own.py").write_text("raise SystemExit('code was run')")
    assert "cannot be loaded" in message_of(PretrainedText(str(code), 20))


def test_half_a_file_of_weights_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(folders["t5"], tmp_path / "t5")
    weights = folder / "model.safetensors"
    state = load_file(weights)
    state = {key: value.clone() for key, value in state.items()}
    dropped = "encoder.final_layer_norm.weight"
    save_file({key: value for key, value in state.items() if key != dropped}, weights, {"format": "pt"})
    assert "lack 1 tensors, such as encoder.final_layer_norm.weight" in message_of(
        PretrainedText(str(folder), 20)
    )
    weights.write_bytes(weights.read_bytes()[:-50])
    assert "cannot be loaded" in message_of(PretrainedText(str(folder), 20))
