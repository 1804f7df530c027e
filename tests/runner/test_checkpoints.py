"""A checkpoint is resumed from only if it is whole."""

from pathlib import Path

from qexp.runner.checkpoints import is_sealed, last_checkpoint, seal


def make(folder: Path, step: int, sealed: bool = True) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(bytes(range(256)) * step)
    (checkpoint / "trainer_state.json").write_text("{}")
    if sealed:
        seal(checkpoint)
    return checkpoint


def test_newest_whole_checkpoint_is_chosen_by_number_not_by_name(tmp_path: Path) -> None:
    make(tmp_path, 9)
    newest = make(tmp_path, 100)
    assert last_checkpoint(tmp_path) == (newest, [])


def test_unsealed_checkpoint_is_set_aside_and_the_one_before_is_used(tmp_path: Path) -> None:
    whole, _ = make(tmp_path, 1), make(tmp_path, 2, sealed=False)
    found, broken = last_checkpoint(tmp_path)
    assert found == whole
    assert [path.name for path in broken] == ["checkpoint-2.corrupt-1"]
    assert broken[0].is_dir()


def test_every_kind_of_damage_is_seen(tmp_path: Path) -> None:
    for number, damage in enumerate(("truncate", "flip", "remove", "add", "unseal"), start=1):
        checkpoint = make(tmp_path / damage, number)
        assert is_sealed(checkpoint)
        weights = checkpoint / "model.safetensors"
        if damage == "truncate":
            weights.write_bytes(weights.read_bytes()[:-1])
        elif damage == "flip":
            weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
        elif damage == "remove":
            weights.unlink()
        elif damage == "add":
            (checkpoint / "other").touch()
        else:
            (checkpoint / "sealed.json").write_text("not json")
        assert not is_sealed(checkpoint)
        assert last_checkpoint(tmp_path / damage)[0] is None


def test_a_second_damage_of_the_same_step_keeps_the_first(tmp_path: Path) -> None:
    make(tmp_path, 5, sealed=False)
    last_checkpoint(tmp_path)
    make(tmp_path, 5, sealed=False)
    _, broken = last_checkpoint(tmp_path)
    assert broken[0].name == "checkpoint-5.corrupt-2"


def test_no_folder_means_no_checkpoint(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path / "absent") == (None, [])
