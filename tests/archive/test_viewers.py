"""The programs that people have must open our files at the default plot."""

import numpy as np
import pytest

from tests.archive.series import archive_of, calibrated

pytestmark = pytest.mark.viewers


@pytest.mark.parametrize("codec", ["deflate", "zstd", "none"])
def test_silx_finds_the_default_plot_and_the_ranked_one(tmp_path, codec):
    pytest.importorskip("silx")
    import silx.io
    from silx.io import nxdata

    path = archive_of(tmp_path / "s.nxs", 3, codec=codec, start=calibrated())
    with silx.io.open(str(path)) as file:
        plot = nxdata.get_default(file)
        assert plot.is_valid
        assert plot.signal.shape == (3, 40, 48)
        assert plot.axes_dataset_names == ["frame", "y", "x"]
        assert plot.interpretation == "image"
        for name in ("ranked", "scores", "thumbnails"):
            assert nxdata.NXdata(file[f"entry/{name}"]).is_valid


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_hyperspy_opens_the_default_plot_in_nanometres(tmp_path, n, lazy):
    hyperspy = pytest.importorskip("hyperspy.api")
    path = archive_of(tmp_path / "s.nxs", n, start=calibrated())
    image = hyperspy.load(str(path), use_default=True, lazy=lazy)
    assert image.data.shape == (n, 40, 48)
    assert image.axes_manager.signal_shape == (48, 40)
    for axis in image.axes_manager.signal_axes:
        assert axis.units == "nm"
        assert axis.scale == pytest.approx(0.02)
    assert np.asarray(image.data).any()
