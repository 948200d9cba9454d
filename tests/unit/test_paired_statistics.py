"""Differences between rows, by hand and as others compute them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from report_runs import result, write_predictions, write_run
from scipy import stats

from genaug.reports.cost import cost_table, gpu_hours
from genaug.reports.pairs import against, compare_rows, enough
from genaug.reports.settings import baselines, settings_that_differ
from genaug.reports.statistics import Difference, McNemar, mcnemar, paired_bootstrap
from genaug.reports.tables import Row, find_runs, gather, scale_lines


def rows_of(runs: Path) -> dict[str, Row]:
    return {row.label: row for row in gather(find_runs([runs]))["birds"]}


# --- McNemar -------------------------------------------------------------------------------------------------------


def test_mcnemar_by_hand():
    first = np.array([True] * 10 + [False] * 2 + [True] * 5 + [False] * 3)
    second = np.array([False] * 10 + [True] * 2 + [True] * 5 + [False] * 3)
    # 10 : 2; both tails of a fair coin: 2 * (1 + 12 + 66) / 4096.
    assert mcnemar(first, second) == McNemar(10, 2, pytest.approx(2 * 79 / 4096))
    assert mcnemar(second, first) == McNemar(2, 10, pytest.approx(2 * 79 / 4096))


def test_mcnemar_without_a_difference():
    same = np.array([True, False, True])
    assert mcnemar(same, same) == McNemar(0, 0, 1.0)
    assert mcnemar(np.array([True, False]), np.array([False, True])).p == 1.0


def test_mcnemar_refuses_other_images():
    with pytest.raises(ValueError, match="the same images"):
        mcnemar(np.array([True]), np.array([True, False]))


# --- bootstrap -----------------------------------------------------------------------------------------------------


def test_the_bootstrap_of_one_seed_is_binomial():
    # 30 of 100 images are gained and none is lost: the mean of a draw is a binomial share.
    differences = np.array([[1] * 30 + [0] * 70])
    found = paired_bootstrap(differences, np.random.default_rng(0), resamples=200_000)
    expected = stats.binom.ppf([0.025, 0.975], 100, 0.3) / 100
    assert found.mean == pytest.approx(0.3)
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-9)


def test_the_bootstrap_is_that_over_all_draws():
    # Five images, two seeds: all 3,125 draws, each as likely, an image together with both seeds' answers.
    differences = np.array([[1, 0, -1, 0, 1], [1, 1, -1, 0, 1]])
    means = [differences[:, list(draw)].mean() for draw in itertools.product(range(5), repeat=5)]
    found = paired_bootstrap(differences, np.random.default_rng(0), resamples=100_000)
    assert found.mean == pytest.approx(0.3)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))


def test_two_equal_seeds_say_no_more_than_one():
    one = np.array([[1] * 20 + [-1] * 5 + [0] * 75])
    alone, twice = (paired_bootstrap(each, np.random.default_rng(1)) for each in (one, np.vstack([one, one])))
    assert twice == alone


def test_the_bootstrap_repeats_itself():
    differences = np.random.default_rng(3).integers(-1, 2, (3, 50))
    first, again, other = (paired_bootstrap(differences, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first == again
    assert first.mean == other.mean
    with pytest.raises(ValueError, match="at least one seed and one image"):
        paired_bootstrap(np.zeros((1, 0), int), np.random.default_rng(0))


# --- rows ----------------------------------------------------------------------------------------------------------


def test_a_gap_over_images_by_hand(tmp_path):
    # Of 40 images the first 10 are right in both; "more" has 20 others in one seed and 18 in the other.
    for seed, gained in enumerate((20, 18)):
        write_run(tmp_path, result("plain", seed, 0.25), [True] * 10 + [False] * 30)
        write_run(tmp_path, result("more", seed, 0.0), [True] * (10 + gained) + [False] * (30 - gained))
    rows = rows_of(tmp_path)
    gap = compare_rows(rows["more"], rows["plain"], "test")
    assert (gap.seeds, gap.images, gap.budgets) == ((0, 1), 40, True)
    assert gap.difference is not None
    assert gap.difference.mean == pytest.approx(19 / 40)
    assert 0.3 < gap.difference.low < 0.35
    assert 0.6 < gap.difference.high < 0.65
    assert gap.tests == (McNemar(20, 0, pytest.approx(2**-19)), McNemar(18, 0, pytest.approx(2**-17)))
    assert gap.verdict == "better"
    assert compare_rows(rows["plain"], rows["more"], "test").verdict == "worse"


def pair(tmp_path: Path, plain: list[list[bool]], more: list[list[bool]]) -> str:
    for method, seeds in (("plain", plain), ("more", more)):
        for seed, right in enumerate(seeds):
            write_run(tmp_path, result(method, seed, sum(right) / len(right)), right)
    rows = rows_of(tmp_path)
    return compare_rows(rows["more"], rows["plain"], "test").verdict


def test_one_seed_is_noise(tmp_path):
    assert pair(tmp_path, [[False] * 50], [[True] * 50]) == "within noise (one seed)"


def test_a_small_gap_is_noise(tmp_path):
    plain, more = [True] * 25 + [False] * 25, [True] * 26 + [False] * 24
    assert pair(tmp_path, [plain, plain], [more, more]) == "within noise"


def test_seeds_that_disagree_are_noise(tmp_path):
    none, some, half = [False] * 100, [True] * 3 + [False] * 97, [True] * 50 + [False] * 50
    assert pair(tmp_path, [none, some], [half, none]) == "within noise (seeds disagree)"


def test_images_are_paired_by_name_not_by_place(tmp_path):
    for seed in (0, 1):
        names = [f"{number}.png" for number in range(12)]
        plain = write_run(tmp_path, result("plain", seed, 0.5))
        write_predictions(plain, {name: number < 6 for number, name in enumerate(names)})
        more = write_run(tmp_path, result("more", seed, 0.5))
        write_predictions(more, {name: number < 6 for number, name in reversed(list(enumerate(names)))})
    rows = rows_of(tmp_path)
    gap = compare_rows(rows["more"], rows["plain"], "test")
    assert gap.difference == Difference(0.0, 0.0, 0.0)
    assert {(one.only_first, one.only_second) for one in gap.tests} == {(0, 0)}


def test_other_images_are_not_compared(tmp_path):
    write_run(tmp_path, result("plain", 0, 0.5), [True, False])
    write_run(tmp_path, result("more", 0, 0.5), [True, False, True])
    rows = rows_of(tmp_path)
    gap = compare_rows(rows["more"], rows["plain"], "test")
    assert (gap.verdict, gap.text(), gap.beyond_noise) == ("tested on other images", "–", False)


def test_without_predictions_seeds_are_compared(tmp_path):
    # Differences 0.1, 0.2, 0.3: mean 0.2; Student's t(0.975, 2) = 4.302653 times 0.1 / sqrt(3).
    for seed in range(3):
        write_run(tmp_path, result("plain", seed, 0.5))
        write_run(tmp_path, result("more", seed, 0.6 + seed / 10))
    rows = rows_of(tmp_path)
    gap = compare_rows(rows["more"], rows["plain"], "test")
    assert gap.difference is not None
    half = 4.302653 * 0.1 / 3**0.5
    assert gap.difference.low == pytest.approx(0.2 - half, abs=1e-6)
    assert gap.difference.high == pytest.approx(0.2 + half, abs=1e-6)
    assert (gap.images, gap.tests, gap.verdict) == (0, (), "within noise")


def test_scores_that_are_no_accuracies_are_compared_by_seed(tmp_path):
    scores = {"test": {"score": 0.9, "metric": "macro_f1", "n": 4}}
    for seed in (0, 1):
        write_run(tmp_path, result("plain", seed, 0.0, scores=scores), [False] * 4)
        write_run(tmp_path, result("more", seed, 0.0, scores=scores), [True] * 4)
    rows = rows_of(tmp_path)
    gap = compare_rows(rows["more"], rows["plain"], "test")
    assert gap.difference is not None
    assert (gap.difference.mean, gap.images) == (0.0, 0)  # of the scores
    assert gap.tests == (McNemar(4, 0, 0.125), McNemar(4, 0, 0.125))  # of the answers


def test_seeds_that_only_one_row_has_do_not_count(tmp_path):
    write_run(tmp_path, result("plain", 0, 0.5), [True] * 4)
    write_run(tmp_path, result("more", 1, 0.5), [True] * 4)
    write_run(tmp_path, result("more", 2, 0.5), [True] * 4)
    rows = rows_of(tmp_path)
    assert compare_rows(rows["more"], rows["plain"], "test").verdict == "no seed in common"


def test_unequal_budgets_are_said(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path, result("plain", seed, 0.0), [False] * 9)
        write_run(tmp_path, result("more", seed, 1.0, steps=200), [True] * 9)
    rows = rows_of(tmp_path)
    header, cells = against(list(rows.values()), rows["plain"])
    assert header[2] == "points above plain"
    assert cells == [
        ["more", "test", "+100.0 [+100.0, +100.0]", "better; budgets differ", "2", "9 : 0 (p=0.0039); 9 : 0 (p=0.0039)"]
    ]


def test_how_much_is_enough(tmp_path):
    # 2X is as good as 4X, 1X is not.
    for scale, right in ((1, 10), (2, 28), (4, 30)):
        for seed in (0, 1):
            run = result("more", seed, right / 40, scale=scale, comparison=f"more-{scale}")
            run["overrides"].append(f"method.scale={scale}")
            write_run(tmp_path, run, [True] * right + [False] * (40 - right))
    _, [line] = enough(scale_lines(list(rows_of(tmp_path).values())), ["test"])
    assert line == ["test", "more", "4X", "75.0 ± 0.0 [75.0, 75.0]", "2X"]


def test_of_one_seed_nobody_knows_how_much_is_enough(tmp_path):
    for scale in (1, 2):
        run = result("more", 0, scale / 10, scale=scale, comparison=f"more-{scale}")
        run["overrides"].append(f"method.scale={scale}")
        write_run(tmp_path, run, [True] * scale + [False] * (10 - scale))
    _, [line] = enough(scale_lines(list(rows_of(tmp_path).values())), ["test"])
    assert line == ["test", "more", "2X", "20.0", "not known (one seed)"]


# --- baseline and settings -----------------------------------------------------------------------------------------


def configured(tmp_path: Path) -> list[Row]:
    more = {"cost": {}}
    write_run(tmp_path, result("mixed", 0, 0.2), config={"method": {"name": "mixed"}, "mixer": {"a": 1, "b": 2}})
    write_run(tmp_path, result("plain", 0, 0.5), config={"method": {"name": "plain"}, "mixer": {"a": 0}})
    write_run(tmp_path, result("more", 0, 0.1, made=more), config={"method": {"name": "more"}, "mixer": {}})
    return gather(find_runs([tmp_path]))["birds"]


def test_the_baseline_made_nothing_and_sets_least(tmp_path):
    rows = configured(tmp_path)
    assert baselines({"birds": rows})["birds"].label == "plain"
    assert baselines({"birds": rows}, "mixed")["birds"].label == "mixed"
    with pytest.raises(ValueError, match=r"No row is called 'plane'. There are: more, mixed, plain\."):
        baselines({"birds": rows}, "plane")


def test_settings_that_differ_by_hand(tmp_path):
    header, shared, partial = settings_that_differ(configured(tmp_path))
    assert header == ["setting", "more", "mixed", "plain"]
    assert shared == [["method.name", "more", "mixed", "plain"]]
    assert partial == [["mixer", "{}", "–", "–"], ["mixer.a", "–", "1", "0"], ["mixer.b", "–", "2", "–"]]


# --- cost ----------------------------------------------------------------------------------------------------------


def test_cost_by_hand(tmp_path):
    parts = {
        "backgrounds": {"images": 1500, "denoiser_steps": 18000, "seconds": 3000.0, "devices": ["NVIDIA H100"]},
        "composites": {"images": 1500, "denoiser_steps": 0, "seconds": 60.0, "devices": ["cpu"]},
    }
    seconds = {"synthesize": 1.0, "train": 300.0, "evaluate": 60.0}
    cost = {"images_per_second": 1.0, "training_seconds": 290.0, "device_peak_memory_mib": 2048.0}
    run = result(
        "more", 0, 0.5, made={"cost": parts}, stage_seconds=seconds, cost=cost, device="2 x NVIDIA H100", steps=1000
    )
    write_run(tmp_path, run)
    write_run(tmp_path, result("plain", 0, 0.4))
    _, cells = cost_table(gather(find_runs([tmp_path]))["birds"])
    # (3000 + 2 * 360) / 3600 hours
    made = "1,500 backgrounds, 1,500 composites"
    assert cells == [
        ["plain", "0", "–", "–", "0.0", "50.0", "1,600", "1 x cpu", "0.00", "–"],
        ["more", made, "0.49", "12.0", "3,060.0", "300.0", "16,000", "2 x NVIDIA H100", "1.03", "2.0"],
    ]
    assert gpu_hours(run) == pytest.approx(3720 / 3600)
