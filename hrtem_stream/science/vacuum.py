import numpy as np
def find_vacuum(flat, *, beam_off):
    return np.zeros(flat.shape, np.bool_)
