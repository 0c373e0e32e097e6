"""Volumes of the testbed: cinder's own fake driver, which logs what it would do, and which cannot extend."""
from cinder.tests import fake_driver


class Volumes(fake_driver.FakeLoggingVolumeDriver):
    def extend_volume(self, volume, new_size):
        pass
