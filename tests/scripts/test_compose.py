"""Configs: every YAML builds, every experiment composes, wrong keys fail in seconds and are named."""

import pytest

from isotok.errors import ConfigError
from isotok.recipe import describe, is_recipe
from scripts.compose import CONFIG_DIR, GROUPS, build_experiment, build_run, compose, group_options
from scripts.graph import Graph

YAMLS = [(group, name) for group in GROUPS for name in group_options(group)]


@pytest.mark.parametrize(("group", "name"), YAMLS, ids=lambda v: v)
def test_every_yaml_builds_and_lists_every_key(group, name):
    required = {
        "local": "corpus.paths=[x.txt]",
        "hub": "corpus.path=x",
        "existing": "tokenizer.path=x",
        "folder": f"{group}.path=x",
    }
    extra = [required[name]] if name in required else []
    config = compose([f"{group}={name}", *extra])
    recipe = getattr(build_run(config), group)
    assert is_recipe(recipe)
    assert set(config[group]) == set(describe(recipe)), "the YAML is the documentation of its keys: list them all"


@pytest.mark.parametrize("name", group_options("experiment"))
def test_every_experiment_composes(name):
    experiment = build_experiment([f"experiment={name}"])
    assert experiment.name == name
    assert all(arm.runs for arm in experiment.arms)


def test_an_experiment_overrides_the_defaults_of_the_top_level():
    demo = build_experiment(["experiment=demo"])
    assert [list(arm.runs) for arm in demo.arms] == [[0, 1, 2]] * 4
    assert (demo.study.baseline, demo.study.endpoint_arm) == ("bpe", "superbpe")
    assert demo.study.notes
    quick = build_experiment(["experiment=demo", "debug=quick"])
    assert quick.arms[0].runs[0].budget.amount == 20


def test_every_folder_of_configs_is_a_group():
    assert {path.name for path in CONFIG_DIR.iterdir() if path.is_dir()} <= {*GROUPS, "experiment", "debug"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+toc.vocab_size=1"], "toc: no such key"),
        (["+sed=1"], "sed: no such key; did you mean seed"),
        (["tokeniser=bpe"], "tokeniser: no such key; did you mean tokenizer"),
        (["tokenizer=bp"], "Could not find 'tokenizer/bp'.*bpe.*superbpe"),
        (["tokenizer.vocab_siz=1"], "tokenizer.vocab_siz: no such key of BPE; did you mean vocab_size"),
        (["+tokenizer.vocab_siz=1"], "tokenizer.vocab_siz: unknown key of BPE; did you mean vocab_size"),
        (["tokenizer.vocab_size=many"], "tokenizer.vocab_size='many': .*integer"),
        (["tokenizer.vocab_size=12"], "tokenizer.vocab_size=12: .*greater than or equal to 257"),
        (["tokenizer=superbpe", "tokenizer.transition=100"], "transition=100 is 100 entries.*allowed: 256"),
        (["transform=stochastok", "transform.rounding=up"], "transform.rounding='up': .*'floor' or 'stochastic'"),
        (["seed=-1"], "seed=-1: "),
        (["seeds=[0,0]"], "a seed twice"),
        (["seeds=[a]"], "seeds.0='a': "),
        (["seeds=3"], "seeds=3: "),
        (["jobs=0"], "jobs"),
        (["plugins=mine"], "plugins='mine': "),
        (["arms.x=3"], "arms.x=3: "),
        (["grid.seed=3"], "grid.seed=3: "),
        (["tokenizer._target_=os.path.join"], "not a recipe"),
        (["study.baseline=x"], "study.baseline=x: no such arm"),
        (["+study.basline=x"], "study.basline: unknown key of Study; did you mean baseline"),
        (["seed=[1"], "."),
        (["plugins=[/nowhere/at/all]"], "plugins: /nowhere/at/all is not a folder"),
    ],
)
def test_wrong_overrides_are_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        build_experiment(overrides)


def test_arms_seeds_and_grid_multiply():
    experiment = build_experiment(["experiment=smoke", "seeds=[3,4]", "grid={tokenizer.vocab_size: [400, 500]}"])
    assert [arm.name for arm in experiment.arms] == [
        "bpe, tokenizer.vocab_size=400",
        "bpe, tokenizer.vocab_size=500",
        "superbpe, tokenizer.vocab_size=400",
        "superbpe, tokenizer.vocab_size=500",
    ]
    assert all(list(arm.runs) == [3, 4] for arm in experiment.arms)
    assert experiment.arms[1].runs[3].tokenizer.vocab_size == 500


def test_a_seed_beside_seeds_is_refused_and_not_ignored():
    with pytest.raises(ConfigError, match=r"seeds=\[0, 1, 2\]; set seeds="):
        build_experiment(["experiment=demo", "seed=5"])


def test_local_corpora_of_other_paths_are_other_corpora(tmp_path):
    for name, text in (("en", "the sea"), ("de", "das Meer")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(text)
    arms = [f"+arms.{name}=['corpus.paths=[{tmp_path}/{name}/*.txt]']" for name in ("en", "de")]
    experiment = build_experiment(["corpus=local", *[arm.lstrip("+") for arm in arms]])
    graph = Graph()
    keys = {graph.corpus(run).key for run in experiment.runs()}
    assert len(keys) == 2


def test_multirun_is_sugar_for_a_grid():
    experiment = build_experiment(["tokenizer=bpe,superbpe", "seed=0,1"], multirun=True)
    assert [arm.name for arm in experiment.arms] == ["tokenizer=bpe", "tokenizer=superbpe"]
    assert [run.seed for run in experiment.arms[0].runs.values()] == [0, 1]


def test_order_of_precedence_is_experiment_command_line_arm():
    changed = [
        "experiment=smoke",
        "tokenizer=superbpe",
        "tokenizer.transition=0.5",
        'arms.bpe=["tokenizer.transition=0.9"]',
    ]
    experiment = build_experiment(changed)
    assert experiment.arms[0].runs[0].tokenizer.transition == 0.9
    assert experiment.arms[1].runs[0].tokenizer.transition == 0.5


def test_equal_arms_are_refused_unless_they_are_twins():
    twice = ["experiment=smoke", "~arms.superbpe", 'arms.again=["tokenizer=bpe"]']
    with pytest.raises(ConfigError, match="arms bpe and again are one and the same"):
        build_experiment(twice)
    assert len(build_experiment([*twice, "study.twins=[[bpe,again]]"]).arms) == 2


def test_a_users_own_class_and_yaml(tmp_path):
    (tmp_path / "my_tokenizers.py").write_text(
        "from isotok.recipe import recipe\nfrom tokenization import BPE\n"
        "@recipe\nclass Small(BPE):\n    vocab_size: int = 300\n"
    )
    (tmp_path / "configs" / "tokenizer").mkdir(parents=True)
    (tmp_path / "configs" / "tokenizer" / "small.yaml").write_text("_target_: my_tokenizers.Small\nvocab_size: 280\n")
    run = build_experiment([f"plugins=[{tmp_path}]", "tokenizer=small"]).arms[0].runs[0]
    assert type(run.tokenizer).__name__ == "Small"
    assert run.tokenizer.vocab_size == 280


def test_keys_follow_what_changes_the_result_and_nothing_else():
    def keys(*overrides: str) -> dict[str, str]:
        run = next(iter(build_experiment(["experiment=smoke", *overrides]).arms[1].runs.values()))
        graph = Graph()
        stages = ("corpus", "tokenizer", "encode", "pretrain", "evaluate", "reference")
        return {stage: getattr(graph, stage)(run).key for stage in stages}

    def changed(*overrides: str) -> set[str]:
        other = keys(*overrides)
        return {stage for stage, key in base.items() if other[stage] != key}

    base = keys()
    assert changed() == set()
    assert changed("engine.threads=2", "engine.micro_rows=1", "training.wandb=disabled", "jobs=1", "store=x") == set()
    assert changed("evaluation.items=7") == {"evaluate", "reference"}
    assert changed("seeds=[1]") == {"pretrain", "evaluate"}
    assert changed("training.lr=0.01") == {"pretrain", "evaluate"}
    assert changed("tokenizer.vocab_size=400") == {"tokenizer", "encode", "pretrain", "evaluate"}
    assert changed("corpus.seed=5") == set(base)
