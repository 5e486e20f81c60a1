"""Tests of image_diff.py: the benchmarks trust its verdict on every restored image.

usage: python3 -m unittest discover -s benches
"""

import os
import tempfile
import unittest

import image_diff

MIB = 1 << 20
SIZE = 8 * MIB + 512  # the last block is not a whole one


class ImageDiff(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def image(self, name, pieces, size=SIZE):
        """A sparse file of `size` bytes that stores `pieces`: offset → bytes."""
        path = os.path.join(self.folder, name)
        with open(path, "wb") as file:
            file.truncate(size)
            for at, content in pieces.items():
                file.seek(at)
                file.write(content)
        return path

    def check(self, pieces_a, pieces_b, expected):
        a, b = self.image("a", pieces_a), self.image("b", pieces_b)
        self.assertEqual(list(image_diff.differing_offsets(a, b)), expected)
        self.assertEqual(list(image_diff.differing_offsets(b, a)), expected)
        self.assertEqual(image_diff.first_difference(a, b) is None, not expected)

    def test_empty_images_are_equal(self):
        self.check({}, {}, [])

    def test_equal_data_is_equal(self):
        self.check({0: b"a" * MIB, SIZE - 1: b"z"}, {0: b"a" * MIB, SIZE - 1: b"z"}, [])

    def test_stored_zeros_equal_a_hole(self):
        self.check({MIB: bytes(2 * MIB)}, {}, [])

    def test_data_against_a_hole_differs(self):
        self.check({3 * MIB + 5: b"x"}, {}, [3 * MIB])

    def test_the_last_byte_counts(self):
        self.check({SIZE - 1: b"x"}, {SIZE - 1: b"y"}, [8 * MIB])

    def test_each_block_counts_once(self):
        # Ranges that touch, overlap, and lie closer together than one read.
        a = {0: b"x" * 4096, 8192: b"x" * 4096, 16384: b"x" * 12288}
        b = {4096: b"y", 20480: b"y" * 4096}
        self.check(a, b, [0, 4096, 8192, 16384, 20480, 24576])

    def test_sizes_differ(self):
        a, b = self.image("a", {}), self.image("b", {}, SIZE + 1)
        self.assertIn("sizes differ", image_diff.first_difference(a, b))

    def test_a_file_that_is_missing_is_no_verdict(self):
        with self.assertRaises(FileNotFoundError):
            image_diff.first_difference(self.image("a", {}), os.path.join(self.folder, "none"))


if __name__ == "__main__":
    unittest.main()
