"""The README's block of results is what the committed records give."""

import pytest

from detco.common.errors import InputError
from detco.results import readme, store
from tests.factories import ROOT
from tests.factories.records import put, transfer_record


def demo(folder, **changes):
    """Records as a run leaves them, with the paths and the name of its machine."""
    for start in ("random", "detco-small"):
        for seed, value in enumerate((20.0, 22.5)):
            record = transfer_record(start, "c4", seed, value + 5 * (start != "random"), **changes)
            record["versions"] = {"torch": "2.15", "torchvision": "0.30"}
            record["hardware"] = {"host": "me", "cores": 2, "processor": "P"}
            record |= {"code": "0123456789abcdef-changed", "wall_seconds": 90.0}
            record["spec"]["weights"] = (
                f"{folder}/pretrain/b.safetensors" if start != "random" else start
            )
            record["spec"]["data"] = {"root": f"{folder}/scenes/voc", "identity": "plan"}
            put(folder / "transfer" / f"{start}-{seed}", record)
    return folder


def test_the_block_is_current():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.updated(text, readme.block(ROOT / "results" / "demo")) == text, (
        "run `make readme`"
    )


def test_block_has_the_table_and_what_made_it(tmp_path):
    text = readme.block(demo(tmp_path / "run"))
    assert "| detco-small | **26.2 ± 1.8 (2)** |" in text and "| random | 21.2 ± 1.8 (2) |" in text
    assert "*difference to random*" in text and "+5.0 ± 7.6 ~" in text
    assert (
        "4 fine-tunings, 6 minutes of them together, on 2 cores of P; torch 2.15, torchvision 0.30,"
        " commit 0123456789." in text
    )
    assert readme.block(tmp_path / "nothing") == readme.NOTHING


def test_only_the_block_changes(tmp_path):
    text = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    assert readme.updated(text, "new") == f"before\n{readme.BEGIN}\nnew\n{readme.END}\nafter\n"
    for broken in ("no marks", f"{readme.END}{readme.BEGIN}", readme.BEGIN):
        with pytest.raises(InputError, match="the README needs the lines"):
            readme.updated(broken, "new")


def test_records_are_kept_without_the_machine(tmp_path):
    source, target = demo(tmp_path / "run"), tmp_path / "kept"
    put(target / "old", transfer_record("random", "c4", 9, 1.0))
    (tmp_path / "README.md").write_text(f"{readme.BEGIN}\n{readme.END}")
    assert readme.main([str(tmp_path / "README.md"), str(target), str(source)]) == 0
    kept, problems = store.read(target)
    assert (
        problems == []
        and len(kept) == 4
        and not any("spec.json" in path.name for path in target.rglob("*"))
    )
    texts = "".join(path.read_text() for path in target.rglob("record.json"))
    assert str(tmp_path) not in texts and '"host"' not in texts and '"scenes/voc"' in texts
    assert readme.block(target) == readme.block(source)
    assert readme.block(target) in (tmp_path / "README.md").read_text()


def test_refusals(tmp_path, capsys):
    (tmp_path / "README.md").write_text("no marks")
    assert readme.main([str(tmp_path / "README.md"), str(tmp_path)]) == 2
    put(tmp_path / "bad", transfer_record("random", "c4", 0, 200.0))
    assert readme.main([str(tmp_path / "README.md"), str(tmp_path)]) == 2
    assert "outside 0..100" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"outside 0\.\.100"):
        readme.keep(tmp_path, tmp_path / "kept")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no finished fine-tuning"):
        readme.keep(tmp_path / "empty", tmp_path / "kept")
