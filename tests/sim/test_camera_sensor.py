"""The sensor model against the physics it claims: photon transfer, vignetting, saturation."""

import numpy as np
import pytest

from sim.camera.exposure import LIMIT_US, MAX_SHOTS, entropy_bits, find_exposure
from sim.camera.sensor import BAYER_GR, WORD_MAX, Sensor, SensorFigures, vignetting

# No fixed patterns and hardly any vignetting: every pixel of a colour has the same statistics.
IDEAL = SensorFigures(
    width=256, height=256, focal_mm=1000.0, prnu=0.0, dark_spread=0.0, dark_e_per_s=0.0
)
GREEN = np.s_[0::2, 0::2]


def grey(figures: SensorFigures, reflectance: float) -> np.ndarray:
    return np.full((figures.height, figures.width), reflectance, np.float32)


def expose(figures: SensorFigures, reflectance: float, seed: int = 1, **options) -> np.ndarray:
    options = {"exposure_us": 20_000, **options}
    return Sensor(figures, serial=3).expose(grey(figures, reflectance), seed=seed, **options)


@pytest.mark.parametrize("reflectance", [0.02, 0.1, 0.3, 0.6])
def test_mean_follows_the_stated_formula(reflectance):
    frame = expose(IDEAL, reflectance)
    for row in (0, 1):
        for column in (0, 1):
            electrons = IDEAL.response[BAYER_GR[row][column]] * reflectance * 0.020
            expected = IDEAL.black_level + electrons / IDEAL.electrons_per_word
            assert frame[row::2, column::2].mean() == pytest.approx(expected, rel=0.003)


def test_photon_transfer_curve_gives_back_gain_and_read_noise():
    means, variances = [], []
    for reflectance in (0.0, 0.05, 0.1, 0.2, 0.4):
        a, b = (expose(IDEAL, reflectance, seed)[GREEN].astype(float) for seed in (1, 2))
        means.append((a.mean() + b.mean()) / 2 - IDEAL.black_level)
        # Of a difference, so that a fixed pattern would not count; rounding adds 1/12.
        variances.append((a - b).var() / 2 - 1 / 12)
    slope, offset = np.polyfit(means, variances, 1)
    assert 1 / slope == pytest.approx(IDEAL.electrons_per_word, rel=0.05)
    assert variances[0] ** 0.5 * IDEAL.electrons_per_word == pytest.approx(2.3, rel=0.1)
    assert abs(offset) < 3


def test_gain_multiplies_signal_and_noise_but_not_the_black_level():
    dark = expose(IDEAL, 0.0, gain_db=20.0)
    bright = expose(IDEAL, 0.02, gain_db=20.0)
    plain = expose(IDEAL, 0.02)
    assert dark.mean() == pytest.approx(IDEAL.black_level, abs=0.5)
    ratio = (bright.mean() - IDEAL.black_level) / (plain.mean() - IDEAL.black_level)
    assert ratio == pytest.approx(10.0, rel=0.02)


def test_light_beyond_full_well_saturates_at_the_last_word():
    assert (expose(IDEAL, 50.0) == WORD_MAX).all()
    shallow = SensorFigures(width=64, height=64, full_well_e=5200.0)
    assert (expose(shallow, 50.0) == 60 + 2000).all()


def test_exposure_that_saturates_is_where_the_figures_say():
    seconds = SensorFigures().saturation_s(0.35)
    assert seconds == pytest.approx(0.055, rel=0.01)


def test_vignetting_is_cos4_of_the_angle_off_axis():
    figures = SensorFigures()
    light = vignetting(figures)
    tangent = 0.5 * np.hypot(2463, 2055) * figures.pitch_um * 1e-3 / figures.focal_mm
    assert light[0, 0] == pytest.approx(np.cos(np.arctan(tangent)) ** 4, rel=1e-5)
    assert light.max() == pytest.approx(1.0, abs=1e-6)
    assert np.allclose(light, light[::-1, ::-1])
    small = SensorFigures(width=128, height=128, focal_mm=0.6, prnu=0.0)
    frame = expose(small, 0.3)[GREEN].astype(float) - small.black_level
    ratio = frame[:4, :4].mean() / frame[30:34, 30:34].mean()
    assert ratio == pytest.approx(vignetting(small)[:8, :8].mean(), rel=0.05)


def test_fixed_pattern_has_the_stated_spread_and_belongs_to_the_sensor():
    figures = SensorFigures(width=256, height=256, focal_mm=1000.0, prnu=0.02)
    sensor = Sensor(figures, serial=9)
    frames = [
        sensor.expose(grey(figures, 0.3), exposure_us=20_000, seed=seed)[GREEN]
        for seed in range(40)
    ]
    mean = np.mean(frames, axis=0) - figures.black_level
    assert (mean / mean.mean()).std() == pytest.approx(0.02, rel=0.1)
    other = Sensor(figures, serial=10).expose(grey(figures, 0.3), exposure_us=20_000, seed=99)
    assert np.corrcoef(frames[0].ravel(), frames[1].ravel())[0, 1] > 0.3
    assert abs(np.corrcoef(frames[0].ravel(), other[GREEN].ravel())[0, 1]) < 0.05


def test_same_seed_gives_the_same_frame_and_another_seed_does_not():
    assert np.array_equal(expose(IDEAL, 0.1, seed=5), expose(IDEAL, 0.1, seed=5))
    assert not np.array_equal(expose(IDEAL, 0.1, seed=5), expose(IDEAL, 0.1, seed=6))


def test_dark_current_grows_with_exposure():
    figures = SensorFigures(width=64, height=64, dark_e_per_s=5000.0)
    assert expose(figures, 0.0, exposure_us=500_000).mean() == pytest.approx(
        60 + 2500 / 2.6, rel=0.05
    )


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((256, 254), {}),
        ((256, 256), {"exposure_us": 0}),
        ((256, 256), {"gain_db": -1.0}),
        ((256, 256), {"gain_db": float("nan")}),
        ((256, 256), {"illumination": -0.1}),
    ],
)
def test_senseless_exposures_are_refused(shape, options):
    options = {"exposure_us": 1000, **options}
    with pytest.raises(ValueError, match=r"exposure|picture"):
        Sensor(IDEAL).expose(np.zeros(shape, np.float32), **options)


def test_reduced_frame_is_made_of_whole_cells():
    sensor = Sensor(IDEAL)
    frame = sensor.expose(np.zeros((64, 64), np.float32), exposure_us=1000, step=4)
    assert frame.shape == (64, 64)


def test_entropy_of_known_histograms():
    assert entropy_bits(np.zeros((4, 4), np.uint16)) == 0.0
    levels = (np.arange(256, dtype=np.uint16) * 16).reshape(16, 16)
    assert entropy_bits(levels) == pytest.approx(8.0)
    assert entropy_bits(np.array([0, 4095], np.uint16)) == pytest.approx(1.0)


@pytest.mark.parametrize("reflectance_scale", [0.02, 0.1, 0.5, 3.0, 60.0])
def test_automatic_exposure_beats_its_start_within_eight_shots(reflectance_scale):
    ramp = np.linspace(0, reflectance_scale, 256 * 256, dtype=np.float32).reshape(256, 256)
    sensor, shots = Sensor(IDEAL), []

    def shoot(exposure_us):
        shots.append(exposure_us)
        return sensor.expose(ramp, exposure_us=exposure_us, seed=exposure_us)

    best = find_exposure(shoot)
    assert len(shots) <= MAX_SHOTS
    assert shots[0] == 5000
    assert max(shots) <= LIMIT_US
    assert entropy_bits(shoot(best)) >= entropy_bits(shoot(5000)) - 0.01
    if 0.2 < reflectance_scale < 50:
        assert entropy_bits(shoot(best)) > 7.5
