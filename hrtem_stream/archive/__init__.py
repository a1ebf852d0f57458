"""The NeXus archive: writing, reading, recovery, verification. Alone knows h5py."""
