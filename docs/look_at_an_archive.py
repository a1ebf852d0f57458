"""How to open an archive and plot what is in it: `python docs/look_at_an_archive.py series.nxs`.

It needs matplotlib, and writes series.png beside the archive. Each part stands by itself.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from hrtem_stream import open_archive

path = Path(sys.argv[1])
figure, ((best, worst), (over_time, spread)) = plt.subplots(2, 2, figsize=(9, 9))

# %% The account: what came, what is here, what was lost and why.
with open_archive(path) as series:
    print(series.ledger)

# %% The best and the worst frame, contaminant red. Rows are frames in the order of their arrival.
with open_archive(path) as series:
    ranking = series.ranking()
    for axes, row in ((best, ranking[0]), (worst, ranking[-1])):
        frame, amorphous = series.frame(row), series.mask(row)
        low, high = np.percentile(frame, (1, 99))
        axes.imshow(frame, cmap="gray", vmin=low, vmax=high)
        axes.imshow(np.ma.masked_equal(amorphous, False), cmap="autumn", alpha=0.4)
        axes.set_title(f"frame {row}: graphene {series.scores['graphene_fraction'][row]:.1%}")
        axes.set_axis_off()

# %% Scores are plain columns, one value a frame.
with open_archive(path) as series:
    fraction = series.scores["graphene_fraction"]
over_time.plot(fraction, ".")
over_time.set(xlabel="frame", ylabel="graphene fraction", ylim=(0, 1))
spread.hist(fraction[np.isfinite(fraction)], bins=20, range=(0, 1))
spread.set(xlabel="graphene fraction", ylabel="frames")

figure.tight_layout()
figure.savefig(path.with_suffix(".png"), dpi=110)
print(path.with_suffix(".png"))
