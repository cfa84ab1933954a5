"""The reader's own photograph, explained by the embedded network in the page: end to end, and beside Python's map."""

from pathlib import Path

import pytest
import torch
from browser import complaints, new_tab, served
from own_page import LISTEN, a_picture, done, give, site_of
from playwright.sync_api import Browser
from scipy.stats import spearmanr

from perceptual_lib.core.perceptual_ball import perceptual_ball
from perceptual_lib.core.saliency import gaussian_blur, saliency_map
from perceptual_lib.methods import explain
from perceptual_lib.networks.classifier import Classifier

STEPS = 8


@pytest.fixture(scope="module")
def site(embedded: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return site_of(embedded, tmp_path_factory.mktemp("site"), STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["file", "http"])
def test_a_photograph_is_explained_as_python_explains_it(
    scheme: str, site: Path, browser: Browser, embedded: Classifier
) -> None:
    picture = a_picture()
    with served(site) as server, new_tab(browser) as tab:
        address = site.as_uri() if scheme == "file" else server
        heard = complaints(tab, address)
        tab.add_init_script(LISTEN)
        tab.goto(f"{address}/page.html")
        tab.locator(".explorer[data-redraw]").wait_for()
        assert tab.evaluate("performance.getEntriesByType('resource').length") < 12  # nothing for who does not ask
        give(tab, picture)
        done(tab)
        found = tab.evaluate("found")
        images = embedded.preprocess(picture)
        steps: list[torch.Tensor] = []
        truth = perceptual_ball(embedded, images, max_iter=STEPS, callback=lambda *it: steps.append(it[2].clone()))
        assert len(found) == len(steps) == STEPS + 1
        maps = torch.tensor([each["values"] for each in found], dtype=torch.float32).unflatten(1, (224, 224))
        for step in range(1, STEPS + 1):  # blurred as they are shown: unblurred, two runs of Python part later
            sigma = 0 if step < 4 else 5
            pair = gaussian_blur(maps[step], sigma), saliency_map(steps[step], sigma)
            assert spearmanr(*(each.flatten() for each in pair)).statistic > 0.99, step
        assert found[0]["margin"] == pytest.approx(truth.margin_before.item(), abs=1e-3)
        assert found[-1]["margin"] == pytest.approx(truth.margin.item(), abs=0.1)
        options = tab.get_by_label("Class explained").locator("option").all_inner_texts()
        shares, indices = embedded(images).softmax(1)[0].topk(5)
        assert len(options) == 1000
        assert [each.rpartition(",")[0] for each in options[:5]] == [embedded.class_name(i) for i in indices.tolist()]
        given = [float(each.rpartition(",")[2].strip(" %")) / 100 for each in options[:5]]
        assert given == pytest.approx(shares.tolist(), abs=0.006)
        assert "private" not in tab.url and "private" not in tab.locator(".explorer").inner_text()
        for method in ("gradient", "grad_cam"):
            tab.evaluate("() => { found.length = 0; }")
            tab.get_by_label("Method").select_option(method)
            done(tab)
            expected = explain(embedded, images, truth.targets, method=method)
            assert spearmanr(tab.evaluate("found[0].values"), expected.flatten()).statistic > 0.99, method
        assert heard == []
