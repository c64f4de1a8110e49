"""What a picture means when it is read, and that nothing but a one-line error comes of the rest."""

import io
import os
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from sentinv.errors import SentinvError
from sentinv.files import decoding
from sentinv.files.images import prepare, prepare_mask, read_image, save_png, size_in_shape, to_pil
from sentinv.report.contact_sheet import contact_sheet

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
SIDE = 32


def corner_image() -> Image.Image:
    """Red top left, green top right, blue bottom left, white bottom right; 48 wide, 32 high."""
    image = Image.new("RGB", (48, SIDE), WHITE)
    image.paste(RED, (0, 0, 24, 16))
    image.paste(GREEN, (24, 0, 48, 16))
    image.paste(BLUE, (0, 16, 24, 32))
    return image


def write(folder: Path, image: Image.Image, kind: str, **options: object) -> Path:
    path = folder / f"picture.{kind.lower()}"
    image.save(path, kind, **options)
    return path


def png(rows: np.ndarray, colour: int, depth: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG by hand: `rows` are the packed bytes of each line."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    width = rows.shape[1] * 8 // (depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour])
    header = struct.pack(">IIBBBBB", width, rows.shape[0], depth, colour, 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    body = b"".join(chunk(*one) for one in chunks)
    image = chunk(b"IDAT", zlib.compress(lines))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + image + chunk(b"IEND", b"")


def close(got: tuple[int, ...], wanted: tuple[int, ...], tolerance: int = 0) -> bool:
    return max(abs(a - b) for a, b in zip(got, wanted, strict=True)) <= tolerance


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    right, bottom = image.width - 5, image.height - 5
    return [image.getpixel(at) for at in ((4, 4), (right, 4), (4, bottom), (right, bottom))]


MODES = {
    "JPEG": ["1", "L", "RGB", "CMYK", "YCbCr"],
    "PNG": ["1", "L", "P", "RGB", "RGBA", "LA"],
    "WEBP": ["L", "P", "RGB", "RGBA", "LA"],
}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in MODES.items() for mode in modes])
def test_every_mode_keeps_its_colours(tmp_path: Path, kind: str, mode: str) -> None:
    image = corner_image().convert(mode)
    wanted = corners(image.convert("RGB"))
    picture = read_image(write(tmp_path, image, kind))
    assert picture.image.mode == "RGB"
    assert picture.image.size == (48, SIDE)
    assert picture.mask is None
    tolerance = 0 if kind == "PNG" else 14
    assert all(close(got, want, tolerance) for got, want in zip(corners(picture.image), wanted, strict=True))
    assert any("CMYK" in notice for notice in picture.notices) == (mode == "CMYK" and kind == "JPEG")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(tmp_path: Path, kind: str, orientation: int) -> None:
    undo = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    turn = decoding._TRANSPOSE.get(undo)
    stored = corner_image().transpose(turn) if turn is not None else corner_image()
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = read_image(write(tmp_path, stored, kind, exif=exif, quality=95))
    assert picture.image.size == (48, SIDE)
    assert all(
        close(got, want, 12) for got, want in zip(corners(picture.image), (RED, GREEN, BLUE, WHITE), strict=True)
    )


@pytest.mark.parametrize("turn", [6, 8])
def test_the_mask_turns_with_its_picture(tmp_path: Path, turn: int) -> None:
    image = corner_image().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 255))
    image.paste((0, 0, 0, 0), (0, 0, 24, 16))
    exif = Image.Exif()
    exif[0x0112] = turn
    picture = read_image(write(tmp_path, image, "PNG", exif=exif))
    assert picture.mask is not None
    assert picture.mask.size == picture.image.size == (SIDE, 48)
    assert picture.mask.getpixel((27, 4) if turn == 6 else (4, 43)) == 0
    assert picture.mask.getpixel((4, 4) if turn == 6 else (27, 43)) == 255


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).round().astype(">u2").reshape(64, 64)
    path = tmp_path / "ramp.png"
    path.write_bytes(png(ramp.view("u1"), colour=0, depth=16))
    pixels = np.asarray(read_image(path).image)[:, :, 0]
    assert len(np.unique(pixels)) == 256
    assert np.abs(pixels - ramp / 257).max() <= 0.5


@pytest.mark.parametrize("colour", [0, 2, 4, 6])
@pytest.mark.parametrize("value", [0, 1, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF])
def test_sixteen_bit_samples(tmp_path: Path, colour: int, value: int) -> None:
    samples = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    pixels = np.full((SIDE, SIDE, samples), value, ">u2")
    if colour >= 4:
        pixels[..., -1] = 0xFFFF
    path = tmp_path / "picture.png"
    path.write_bytes(png(pixels.reshape(SIDE, -1).view("u1"), colour, 16))
    assert close(read_image(path).image.getpixel((3, 3)), (round(value / 257),) * 3, 1)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_gray_that_stands_for_transparent(tmp_path: Path, depth: int) -> None:
    top = 2**depth - 1
    body = bytes([255] * (SIDE * depth // 16) + [0] * (SIDE * depth // 16)) * SIDE  # left white, right black
    rows = np.frombuffer(body, "u1").reshape(SIDE, -1)
    path = tmp_path / "picture.png"
    path.write_bytes(png(rows, 0, depth, (b"tRNS", struct.pack(">H", top))))
    picture = read_image(path, background=RED)
    assert picture.image.getpixel((2, 2)) == RED
    assert picture.image.getpixel((29, 2)) == (0, 0, 0)
    assert picture.mask is not None
    assert (picture.mask.getpixel((2, 2)), picture.mask.getpixel((29, 2))) == (0, 255)


@pytest.mark.parametrize("depth", [8, 16])
def test_a_colour_that_stands_for_transparent(tmp_path: Path, depth: int) -> None:
    top = 2**depth - 1
    pixels = np.zeros((SIDE, SIDE, 3), ">u2" if depth == 16 else "u1")
    pixels[:, :16, 0] = top
    path = tmp_path / "picture.png"
    key = (b"tRNS", struct.pack(">HHH", top, 0, 0))
    path.write_bytes(png(pixels.reshape(SIDE, -1).view("u1"), 2, depth, key))
    picture = read_image(path, background=BLUE)
    assert picture.image.getpixel((2, 2)) == BLUE
    assert picture.image.getpixel((29, 2)) == (0, 0, 0)


@pytest.mark.parametrize("alphas", [b"\0\xff", b"\x80\xff", b"\xff\0"])
def test_palettes_with_transparency(tmp_path: Path, alphas: bytes) -> None:
    rows = np.zeros((SIDE, SIDE), "u1")
    rows[:, 16:] = 1
    path = tmp_path / "picture.png"
    path.write_bytes(png(rows, 3, 8, (b"PLTE", bytes(RED + GREEN)), (b"tRNS", alphas)))
    picture = read_image(path)
    for x, colour, alpha in ((2, RED, alphas[0]), (29, GREEN, alphas[1])):
        over_white = tuple(round((c * alpha + 255 * (255 - alpha)) / 255) for c in colour)
        assert close(picture.image.getpixel((x, 2)), over_white, 1)
        assert picture.mask is not None
        assert picture.mask.getpixel((x, 2)) == alpha


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("background", [WHITE, (0, 0, 0), (10, 200, 30)])
def test_hidden_colours_stay_hidden(tmp_path: Path, kind: str, background: tuple[int, int, int]) -> None:
    image = Image.new("RGBA", (SIDE, SIDE), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 16, SIDE))
    picture = read_image(write(tmp_path, image, kind, lossless=True), background=background)
    assert picture.image.getpixel((28, 8)) == background
    assert picture.image.getpixel((3, 8)) == BLUE
    assert "partly transparent" in picture.notices[0]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_the_first_frame_of_an_animation(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in (RED, GREEN, BLUE)]
    path = write(tmp_path, frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    picture = read_image(path)
    assert picture.image.getpixel((8, 8)) == RED
    assert "animated" in picture.notices[0]


def gamma_profile() -> bytes:
    """An RGB profile that is not sRGB: its red and blue are swapped."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for at in range(132, 132 + 12 * struct.unpack(">I", data[128:132])[0], 12):
        tag = bytes(data[at : at + 4])
        data[at : at + 4] = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}.get(tag, tag)
    return bytes(data).replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_colour_profiles_are_applied(tmp_path: Path, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    image = Image.new("RGB", (SIDE, SIDE), RED)
    picture = read_image(write(tmp_path, image, kind, icc_profile=gamma_profile(), **options))
    assert close(picture.image.getpixel((8, 8)), BLUE, 10)
    standard = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = read_image(write(tmp_path, image, kind, icc_profile=standard, **options))
    assert close(picture.image.getpixel((8, 8)), RED, 2)
    assert not picture.notices


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("profile", [b"nonsense", b"\0" * 200, gamma_profile()[:300]])
def test_a_broken_profile_is_told_and_ignored(tmp_path: Path, mode: str, profile: bytes) -> None:
    image = Image.new("RGB", (SIDE, SIDE), (90, 90, 90)).convert(mode)
    picture = read_image(write(tmp_path, image, "JPEG", icc_profile=profile))
    assert close(picture.image.getpixel((8, 8)), (90, 90, 90), 3)
    assert "colour profile" in picture.notices[0]


def test_print_colours_without_the_mark_of_adobe(tmp_path: Path) -> None:
    path = write(tmp_path, Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)), "JPEG", quality=95)
    assert close(read_image(path).image.getpixel((8, 8)), RED, 6)
    data = path.read_bytes()
    at = data.index(b"\xff\xee")
    length = struct.unpack(">H", data[at + 2 : at + 4])[0]
    path.write_bytes(data[:at] + data[at + 2 + length :])  # the same samples now mean their inverse
    assert close(read_image(path).image.getpixel((8, 8)), (0, 0, 0), 6)


@pytest.mark.parametrize("name", ["picture.jpg", "picture.webp", "picture.txt", "picture"])
def test_content_decides_not_the_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    corner_image().save(path, "PNG")
    assert corners(read_image(path).image) == [RED, GREEN, BLUE, WHITE]


def bomb() -> bytes:
    rows = np.zeros((13000, 1625), "u1")
    return png(rows, 0, 1)


def huge_webp() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (SIDE, SIDE), (1, 2, 3, 4)).save(buffer, "WEBP", lossless=True, exif=b"Exif\0\0MM\0*\0\0\0\x08")
    data = bytearray(buffer.getvalue())
    assert data[12:16] == b"VP8X"
    data[24:30] = b"\xff\x3f\0\xff\x3f\0"
    return bytes(data)


def saved(kind: str, *, size: tuple[int, int] = (SIDE, SIDE), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind)
    return buffer.getvalue()


REFUSED = {
    "empty": (b"", "is empty; expected a JPEG, PNG or WebP picture"),
    "text": (b"hello, I am no picture", "is not a picture; expected JPEG, PNG, WebP, AVIF or TIFF: convert it"),
    "one byte": (b"\xff", "is not a picture"),
    "page": (b"  <!doctype html>", "is a web page or a drawing (SVG)"),
    "pdf": (b"%PDF-1.7", "is a PDF document"),
    "gif": (saved("GIF"), "is a GIF picture"),
    "bmp": (saved("BMP"), "is a BMP picture"),
    "cut tiff": (saved("TIFF", size=(200, 200))[:-200], "is damaged or cut off"),
    "tiff of floats": (saved("TIFF", mode="F"), "pixels of the kind F; save it in RGB with 8 bits"),
    "cut avif": (saved("AVIF", size=(200, 200))[:-60], "is damaged or cut off"),
    "video": (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "is a video, or a picture of an unknown kind"),
    "cut jpeg": (saved("JPEG", size=(200, 200))[:-200], "is damaged or cut off"),
    "cut png": (saved("PNG", size=(200, 200))[:-60], "is damaged or cut off"),
    "cut webp": (saved("WEBP", size=(200, 200))[:-20], "is damaged or cut off"),
    "signature": (b"\x89PNG\r\n\x1a\n", "is damaged or cut off"),
    "1 x 1": (saved("PNG", size=(1, 1)), "is 1 x 1 pixels; expected at least 16"),
    "too narrow": (saved("PNG", size=(15, 100)), "is 15 x 100 pixels; expected at least 16"),
    "too long": (saved("PNG", size=(16, 1000)), "is 16 x 1000 pixels; expected sides of at most 10 to 1"),
    "bomb": (bomb(), "pixels; expected at most 50 million"),
    "huge webp": (huge_webp(), "is 16384 x 16384 pixels; expected at most 50 million"),
    "unseen": (saved("PNG", mode="RGBA"), "is wholly transparent"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_one_line(tmp_path: Path, case: str) -> None:
    data, message = REFUSED[case]
    path = tmp_path / "a photo.png"
    path.write_bytes(data)
    with pytest.raises(SentinvError) as error:
        read_image(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["TIFF", "AVIF"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "1", "P", "CMYK"])
def test_other_formats_are_known_by_content(tmp_path: Path, kind: str, mode: str) -> None:
    image = Image.new("RGB", (SIDE, 2 * SIDE), (200, 40, 30)).convert(mode)
    if kind == "AVIF" and mode in ("1", "P", "CMYK"):
        pytest.skip("a mode that it does not have")
    path = tmp_path / "holiday.jpg"
    image.save(path, kind)
    picture = read_image(path)
    wanted = image.convert("RGB").getpixel((5, 5))
    assert picture.image.size == (SIDE, 2 * SIDE) and picture.image.mode == "RGB"
    assert mode == "CMYK" or close(picture.image.getpixel((5, 5)), wanted, 6)
    if mode == "CMYK":
        assert picture.image.getpixel((5, 5))[0] > 150 > picture.image.getpixel((5, 5))[1]


def test_a_turned_scan_of_several_pages_in_sixteen_bits(tmp_path: Path) -> None:
    ramp = Image.fromarray(np.linspace(0, 65535, SIDE * 2 * SIDE).astype(np.uint16).reshape(SIDE, 2 * SIDE))
    ramp.save(tmp_path / "scan.png", "TIFF", save_all=True, append_images=[ramp], tiffinfo={0x0112: 6})
    picture = read_image(tmp_path / "scan.png")
    assert picture.image.size == (SIDE, 2 * SIDE)
    assert len(np.unique(np.asarray(picture.image))) > 250
    assert picture.notices == (f"{tmp_path / 'scan.png'} has several pages: its first is used",)


@pytest.mark.parametrize(
    ("data", "told", "module"),
    [
        (
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
            "a HEIC picture, which this installation can't read: pip",
            "pillow_heif",
        ),
        (b"\xff\x0a\x7f\x44", "a JPEG XL picture, which this installation can't read: pip", "pillow_jxl"),
    ],
)
def test_what_an_addition_reads(tmp_path: Path, monkeypatch: Any, data: bytes, told: str, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "IMG_1.jpg").write_bytes(data)
    with pytest.raises(SentinvError, match=told):
        read_image(tmp_path / "IMG_1.jpg")


def test_heic_where_its_reader_is_there(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    Image.new("RGB", (64, 96), (200, 40, 30)).save(tmp_path / "IMG_1.JPG", "HEIF")
    picture = read_image(tmp_path / "IMG_1.JPG")
    assert picture.image.size == (64, 96) and close(picture.image.getpixel((9, 9)), (200, 40, 30), 8)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(100_000_001)
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for path, message in [
        (tmp_path, "is a folder"),
        (tmp_path / "none.png", "does not exist"),
        (tmp_path / "pipe", "is not a plain file"),
        (tmp_path / "circle", "can't be read"),
        (Path("/dev/zero"), "is not a plain file"),
        (large, "is 100 MB; expected at most 100 MB"),
        (large / "x.png", "can't be read"),
        (tmp_path / ("x" * 300), "can't be read"),
        (tmp_path / "nul\0.png", "is no file name"),
        (tmp_path / "two\nlines.png", "does not exist"),
    ]:
        with pytest.raises(SentinvError, match=message) as error:
            read_image(path)
        assert str(error.value).isprintable()


def test_a_jpeg_with_a_thousand_scans_is_refused_before_decoding(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("L", (2000, 2000)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    scan = data[data.rindex(b"\xff\xda") : -2]
    path = tmp_path / "scans.jpg"
    path.write_bytes(data[:-2] + scan * 1000 + data[-2:])
    with pytest.raises(SentinvError, match="too many scans"):
        read_image(path)


def test_damaged_exif_is_told_not_fatal(tmp_path: Path) -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03\0\0\xff\xff\0\0\0\x09"
    picture = read_image(write(tmp_path, corner_image(), "JPEG", exif=exif, quality=95))
    assert picture.image.size == (48, SIDE)
    assert "damaged EXIF" in picture.notices[0]


SEEDS = [
    saved(kind, size=(24, 20), mode=mode)
    for kind, mode in [("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "P"), ("PNG", "RGBA"), ("WEBP", "RGBA"), ("PNG", "1")]
]


def outcome(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        picture = read_image(path)
    except SentinvError as error:
        assert "\n" not in str(error)
        assert path.name in str(error)
    else:
        assert picture.image.mode == "RGB"
        assert picture.mask is None or picture.mask.size == picture.image.size


@settings(max_examples=300, deadline=None)
@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=4)), max_size=4),
    cut=st.integers(0, 10_000),
    trim=st.booleans(),
)
def test_any_damage_ends_in_a_picture_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, seed: bytes, edits: list[tuple[int, bytes]], cut: int, trim: bool
) -> None:
    data = bytearray(seed)
    for at, patch in edits:
        at %= len(data)
        data[at : at + len(patch)] = patch
    outcome(tmp_path_factory.getbasetemp() / "fuzz.bin", bytes(data[: cut % len(data)] if trim else data))


@settings(max_examples=200, deadline=None)
@given(
    start=st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"RIFF\0\0\0\0WEBPVP8X", b""]),
    rest=st.binary(max_size=200),
)
def test_any_bytes_end_in_one_line(tmp_path_factory: pytest.TempPathFactory, start: bytes, rest: bytes) -> None:
    outcome(tmp_path_factory.getbasetemp() / "bytes.bin", start + rest)


@settings(max_examples=40, deadline=None)
@given(width=st.integers(16, 90), height=st.integers(16, 90), rows=st.integers(1, 6), columns=st.integers(1, 6))
def test_prepare_has_the_size_and_range_asked_for(width: int, height: int, rows: int, columns: int) -> None:
    noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), "u1")
    tensor = prepare(Image.fromarray(noise), (rows * 8, columns * 8))
    assert tensor.shape == (1, 3, rows * 8, columns * 8)
    assert tensor.dtype == torch.float32
    assert tensor.min() >= -1 and tensor.max() <= 1


def test_prepare_crops_the_centre_and_does_not_squash() -> None:
    image = Image.new("RGB", (96, 32), RED)
    image.paste(BLUE, (32, 0, 64, 32))
    assert torch.equal(prepare(image, (32, 32)), torch.tensor([-1.0, -1, 1])[None, :, None, None].expand(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("shape", "side", "size"),
    [
        ((300, 300), 512, (512, 512)),
        ((2000, 3000), 512, (384, 576)),
        ((3000, 2000), 512, (576, 384)),
        ((600, 800), 768, (640, 832)),
        ((1080, 1920), 768, (576, 1024)),
        ((1000, 1030), 512, (512, 512)),
    ],
)
def test_sizes_keep_the_shape(shape: tuple[int, int], side: int, size: tuple[int, int]) -> None:
    assert size_in_shape(shape, side, 64) == size


@given(st.tuples(st.integers(1, 8000), st.integers(1, 8000)), st.sampled_from([(512, 64), (1024, 32), (64, 16)]))
def test_sizes_in_any_shape(shape: tuple[int, int], model: tuple[int, int]) -> None:
    side, multiple = model
    height, width = size_in_shape(shape, side, multiple)
    assert height % multiple == width % multiple == 0 < min(height, width)
    assert size_in_shape(shape[::-1], side, multiple) == (width, height)
    if max(shape) <= 2 * min(shape):
        assert abs(np.log(width / height * shape[0] / shape[1])) < 1.25 * multiple / side
        assert 0.5 < height * width / side**2 <= 1.5


def test_a_tensor_is_the_picture_again() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 40, 3), "u1")
    image = Image.fromarray(noise)
    again = to_pil(prepare(image, (32, 40)))
    assert np.array_equal(np.asarray(again[0]), noise)
    odd = torch.tensor([float("nan"), -5, 5]).reshape(1, 3, 1, 1)
    assert to_pil(odd)[0].getpixel((0, 0)) == (0, 0, 255)


def test_a_mask_is_averaged_over_the_area() -> None:
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 20, 64))
    weights = prepare_mask(mask, (4, 4))
    assert weights.shape == (1, 1, 4, 4)
    assert torch.allclose(weights[0, 0, 0], torch.tensor([1.0, 0.25, 0, 0]), atol=2 / 255)


@pytest.mark.parametrize("size", [(12, 16), (0, 8), (-8, 8)])
def test_sizes_that_no_model_takes(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        prepare(corner_image(), size)


def test_a_saved_png_carries_its_text(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    text = {"prompt": "ein <schöner> Mond 月\nzweite Zeile", "seed": "3"}
    save_png(path, corner_image(), text)
    with Image.open(path) as again:
        again.load()
        assert dict(again.text) == text
        assert corners(again) == [RED, GREEN, BLUE, WHITE]
    with pytest.raises(SentinvError, match="exists already"):
        save_png(path, corner_image())
    with pytest.raises(ValueError, match="keyword"):
        save_png(path, corner_image(), {"": "x"}, overwrite=True)


@pytest.mark.parametrize("count", [1, 2, 5, 9])
@pytest.mark.parametrize("captioned", [False, True])
def test_a_grid_shows_every_image_once(count: int, captioned: bool) -> None:
    images = [Image.new("RGB", (40 + i, 30), (i + 1, 0, 0)) for i in range(count)]
    sheet = contact_sheet(images, captions=["a very long caption indeed"] * count if captioned else None)
    pixels = np.asarray(sheet).reshape(-1, 3)
    for i, image in enumerate(images):
        assert (pixels == (i + 1, 0, 0)).all(axis=1).sum() == image.width * image.height


def test_a_grid_needs_images_and_their_captions() -> None:
    with pytest.raises(ValueError, match="images"):
        contact_sheet([])
    with pytest.raises(ValueError, match="captions"):
        contact_sheet([corner_image()], captions=["a", "b"])
