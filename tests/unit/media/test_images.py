"""Images as video: one image, or a folder of frames"""

from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from remix_study.errors import MediaError
from remix_study.media import video
from remix_study.media.checks import Checks
from remix_study.media.clip import DecodedClip, decode_clip
from remix_study.media.decoders import PyAVDecoder
from remix_study.media.images import frame_files, read_image
from remix_study.media.presets import Preset, VideoPreset
from remix_study.media.source import source_at
from remix_study.sample import Clip, SampleId

PART = VideoPreset(2, 24, 32, "bilinear", candidates=3)
CODECS = {".png": ("png", "rgb24"), ".jpg": ("mjpeg", "yuvj420p"), ".bmp": ("bmp", "bgr24"), ".tiff": ("tiff", "rgb24"),
          ".webp": ("libwebp", "yuv420p")}  # fmt: skip
LOSSLESS = (".png", ".bmp", ".tiff")


def pixels_of(number: int, height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    """Return a smooth image, which lossy compression hardly changes. Each number has its own shade."""
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return np.rint(np.stack([100 * across, 100 * down, np.full_like(down, 10 * number)], -1) + 50).astype(np.uint8)


def write_picture(path: Path, pixels: NDArray[np.uint8], kind: str | None = None, form: str | None = None) -> Path:
    codec, usual = CODECS[kind or path.suffix.lower()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as file:
        stream = file.add_stream(codec, rate=1)
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], form or usual
        file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))
    return path


def decoded(
    root: Path, path: str, part: VideoPreset = PART, start: float | None = None, checks: Checks | None = None
) -> DecodedClip:
    clip = Clip(SampleId("a"), {"video": path}, "x", "train", start=start)
    result = decode_clip(clip, source_at(root), Preset("p", {"video": part}), PyAVDecoder(), checks or Checks())
    assert result.rows["video"].shape == part.shape
    assert result.rows["video"].dtype == part.dtype
    return result


def stage_of(root: Path, path: str, part: VideoPreset = PART, start: float | None = None) -> str | None:
    with pytest.raises(MediaError) as caught:
        decoded(root, path, part, start)
    return caught.value.stage


@pytest.mark.parametrize("suffix", CODECS)
def test_an_image_is_a_video_of_identical_frames(tmp_path: Path, suffix: str) -> None:
    picture = pixels_of(3)
    write_picture(tmp_path / f"a{suffix}", picture)
    result = decoded(tmp_path, f"a{suffix}")
    tolerance = 0 if suffix in LOSSLESS else 12
    for frame in result.rows["video"]:
        assert np.abs(frame.astype(int) - picture).max() <= tolerance
    assert result.meta == {"frames": 1, "height": 24, "width": 32}


@pytest.mark.parametrize("form", ["gray", "rgba", "rgb48be"])
def test_grey_alpha_and_16_bit_images_are_read_as_rgb(tmp_path: Path, form: str) -> None:
    picture = np.repeat(pixels_of(0)[..., :1], 3, axis=-1)
    frame = read_image(write_picture(tmp_path / "a.png", picture, form=form))
    assert frame.shape == (24, 32, 3)
    assert np.abs(frame.astype(int) - picture).max() <= 1


def test_the_format_is_read_from_the_content_not_the_name(tmp_path: Path) -> None:
    picture = pixels_of(3)
    write_picture(tmp_path / "a.jpg", picture, kind=".png")
    np.testing.assert_array_equal(decoded(tmp_path, "a.jpg").rows["video"][0], picture)


def test_a_folder_is_read_in_numeric_order(tmp_path: Path) -> None:
    for number in range(12):  # frame9 comes before frame10
        write_picture(tmp_path / f"clip/frame{number}.png", pixels_of(number))
    (tmp_path / "clip/Thumbs.db").write_bytes(b"no picture")
    (tmp_path / "clip/._frame0.png").write_bytes(b"a note of macOS")
    result = decoded(tmp_path, "clip")
    wanted = video.candidate_frames(0, 12, PART)
    assert wanted == [1, 3, 5, 7, 9, 11]
    np.testing.assert_array_equal(result.rows["video"], np.stack([pixels_of(number) for number in wanted]))
    assert result.meta == {"frames": 12, "height": 24, "width": 32}


def test_names_sort_by_numeric_value_and_other_digits_as_text(tmp_path: Path) -> None:
    names = ["a²1.png", "f2.png", "f10.png", "f010_b.png", "1.png", "02.png"]
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in frame_files(tmp_path)] == ["1.png", "02.png", "a²1.png", "f2.png", "f10.png", "f010_b.png"]  # fmt: skip  # noqa: E501 - one line shows the order


def test_frames_of_other_sizes_are_resized(tmp_path: Path) -> None:
    for number in range(2):
        write_picture(tmp_path / f"clip/{number}.png", pixels_of(number, 48, 64))
    small = decoded(tmp_path, "clip").rows["video"]
    assert np.abs(small[0].astype(int) - pixels_of(0)).max() <= 3


def test_a_folder_with_too_few_images_raises(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert stage_of(tmp_path, "none") == "frames"
    write_picture(tmp_path / "one/0.png", pixels_of(0))
    assert stage_of(tmp_path, "one") == "frames"
    assert decoded(tmp_path, "one", VideoPreset(1, 24, 32, "area")).meta["frames"] == 1


def test_a_folder_of_identical_images_is_static(tmp_path: Path) -> None:
    for number in range(3):
        write_picture(tmp_path / f"clip/{number}.png", pixels_of(0))
    assert stage_of(tmp_path, "clip") == "static"
    assert decoded(tmp_path, "clip", checks=Checks(allow_static=True)).meta["frames"] == 3


def test_start_and_end_of_numbered_frames_raise(tmp_path: Path) -> None:
    for number in range(2):
        write_picture(tmp_path / f"clip/{number}.png", pixels_of(number))
    assert stage_of(tmp_path, "clip", start=0.5) == "format"


@pytest.mark.parametrize("suffix", CODECS)
def test_a_truncated_image_raises(tmp_path: Path, suffix: str) -> None:
    content = write_picture(tmp_path / f"whole{suffix}", pixels_of(1)).read_bytes()
    for share in (0.3, 0.6, 0.9):
        (tmp_path / f"a{suffix}").write_bytes(content[: int(share * len(content))])
        assert stage_of(tmp_path, f"a{suffix}") == "video", share


def test_a_jpeg_truncated_after_its_thumbnail_raises(tmp_path: Path) -> None:
    """The thumbnail in its header is complete, and has its own end marker."""
    whole = write_picture(tmp_path / "whole.jpg", pixels_of(1)).read_bytes()
    thumbnail = b"\xff\xe1" + (len(whole) + 8).to_bytes(2, "big") + b"Exif\0\0" + whole
    both = whole[:2] + thumbnail + whole[2:]
    (tmp_path / "a.jpg").write_bytes(both)
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), read_image(tmp_path / "whole.jpg"))
    (tmp_path / "a.jpg").write_bytes(both[:-20])
    assert stage_of(tmp_path, "a.jpg") == "video"
    (tmp_path / "a.jpg").write_bytes(both[:-20] + bytes(20))  # a download that was never finished
    assert stage_of(tmp_path, "a.jpg") == "video"


def test_a_damaged_frame_raises_only_if_it_is_chosen(tmp_path: Path) -> None:
    for number in range(2):
        write_picture(tmp_path / f"clip/{number}.png", pixels_of(number))
    (tmp_path / "clip/1.png").write_bytes((tmp_path / "clip/1.png").read_bytes()[:60])
    assert stage_of(tmp_path, "clip") == "video"


@pytest.mark.parametrize(
    ("content", "stage"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "lfs-pointer"),
        (b"<html>not found</html>", "format"),
        (b"#EXTM3U\n#EXT-X-STREAM-INF:\nfile:///etc/hostname\n", "format"),
        (b"\xff\xd8\xff\xe0 no picture \xff\xd9", "video"),
    ],
)
def test_files_that_are_not_images_raise(tmp_path: Path, content: bytes, stage: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    assert stage_of(tmp_path, "a.jpg") == stage


def test_a_name_with_a_pattern_opens_only_that_file(tmp_path: Path) -> None:
    write_picture(tmp_path / "f001.png", pixels_of(1))
    assert stage_of(tmp_path, "f%03d.png") == "missing"
    (tmp_path / "f001.png").rename(tmp_path / "f%03d.png")
    write_picture(tmp_path / "f001.png", pixels_of(2))
    np.testing.assert_array_equal(decoded(tmp_path, "f%03d.png").rows["video"][0], pixels_of(1))


def test_a_missing_image_raises(tmp_path: Path) -> None:
    assert stage_of(tmp_path, "a.jpg") == "missing"
