"""The table of `isotok plan`: growth is a column where some arm's ids grow."""

import io

from modeling import Llama
from scripts.plan import Row, print_plan
from training import Budget, Training
from training.budget import resolve_budget


def table(*growths: float) -> str:
    model, rows = Llama(hidden_size=32, layers=1, heads=2, mlp_size=48), []
    for growth in growths:
        plan = resolve_budget(
            Budget(amount=600, unit="steps", context_bytes=400, rows=4),
            model,
            Training(),
            vocab_size=300,
            eos_id=0,
            bytes_per_token=4.0,
            train_bytes=1e9,
            growth=growth,
        )
        rows.append(
            Row(
                arm=f"arm{len(rows)}",
                runs=1,
                vocab_size=300,
                total_parameters=1,
                body_parameters=1,
                head_share=0.1,
                plan=plan,
                memory_bytes=1.0,
                seconds=None,
                assumed=False,
            )
        )
    out = io.StringIO()
    print_plan(rows, out)
    return out.getvalue()


def test_growth_is_shown_where_some_arm_has_one() -> None:
    shown = table(0.0, 0.0812)
    assert "growth" in shown and "+8.1%" in shown and "+0.0%" in shown
    assert "growth" not in table(0.0, 0.0)
