"""The named data sets: one table, and a reader for each kind of file in it."""

from __future__ import annotations

from collections.abc import Mapping

from zoo.data._data_set import DataSet, Forms
from zoo.data._fetch import File
from zoo.data._music import MUSIC
from zoo.data._readers import (
    read_amat,
    read_csv,
    read_earthquakes,
    read_frey,
    read_idx,
    read_json_zip,
    read_sklearn,
    read_spoken,
    read_sprites,
    read_turtles,
)
from zoo.data._spins import read_letters, read_spins
from zoo.data._strings import read_digit_strings, read_symbol_strings
from zoo.data._text_sets import TEXT_SETS
from zoo.data.known_chain import read_known_chain
from zoo.data.tsplib import CITIES

__all__ = ["DATA_SETS"]

# --- the table --------------------------------------------------------------------------------------------------------

_RDATASETS = "R's package {}, by way of the Rdatasets collection, https://vincentarelbundock.github.io/Rdatasets/"
_MNIST_LICENCE = "copyright Y. LeCun and C. Cortes; usually stated as CC BY-SA 3.0"
_POSTERIORDB = "https://github.com/stan-dev/posteriordb"


def _one(file: File) -> Mapping[str, Mapping[str, Forms]]:
    return {"": {"x": (file,)}}


def _rdatasets(package: str, name: str, sha256: str, size: int) -> Mapping[str, Mapping[str, Forms]]:
    # The collection as checked first, then as it is today; the checksum decides either way.
    urls = tuple(
        f"https://raw.githubusercontent.com/vincentarelbundock/Rdatasets/{commit}/csv/{package}/{name}.csv"
        for commit in ("1dcc2bf", "master")
    )
    return _one(File(f"tabular/{name}.csv", sha256, size, urls))


def _mnist(name: str, sha256: str, size: int) -> Forms:
    url = f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}-ubyte.gz"
    return (File(f"mnist/{name}-ubyte.gz", sha256, size, (url,)),)


def _binarized(split: str, packed: tuple[str, int], plain: tuple[str, int]) -> Mapping[str, Forms]:
    # Published as plain text; the compressed form, 35 times smaller, is what people keep.
    path = f"binarized_mnist/binarized_mnist_{split}.amat"
    url = f"https://www.cs.toronto.edu/~larocheh/public/datasets/{path}"
    return {"x": (File(f"{path}.gz", *packed), File(path, *plain, (url,)))}


def _posteriordb(name: str, sha256: str, size: int) -> Mapping[str, Mapping[str, Forms]]:
    url = (
        "https://raw.githubusercontent.com/stan-dev/posteriordb/28f8d3d6e975315f42aa274a8399f21e07a43b30/"
        f"posterior_database/data/data/{name}.json.zip"
    )
    return _one(File(f"posteriordb/data/{name}.json.zip", sha256, size, (url,)))


# The folder of recordings at commit 26eb9aa, packed by us: no such archive is published, so none is fetched.
_RECORDINGS = File(
    "fsdd/recordings.tar.bz2", "3673386dae1eef69e80728205fd3b798d055f0e09b992ff54deda3f71ac538f1", 13225334
)


DATA_SETS: dict[str, DataSet] = {
    **TEXT_SETS,
    "iris": DataSet(
        "150 x 4",
        "sepals and petals of three kinds of iris, in cm",
        "R. A. Fisher (1936), in scikit-learn",
        "CC BY 4.0 (UCI)",
        read_sklearn("iris"),
        provider="scikit-learn",
        labelled=True,
    ),
    "wine": DataSet(
        "178 x 13",
        "chemical analysis of wines of three cultivars",
        "M. Forina et al. (UCI), in scikit-learn",
        "CC BY 4.0 (UCI)",
        read_sklearn("wine"),
        provider="scikit-learn",
        labelled=True,
    ),
    "digits": DataSet(
        "1797 x 64",
        "handwritten digits, 8 x 8 counts 0..16",
        "E. Alpaydin and C. Kaynak (UCI), in scikit-learn",
        "CC BY 4.0 (UCI)",
        read_sklearn("digits"),
        provider="scikit-learn",
        labelled=True,
    ),
    "sprites": DataSet(
        "1296 x 256",
        "16 x 16 greys: three shapes in every scale, rotation and place; labels are the shapes",
        "drawn by us, after L. Matthey and others (2017), dSprites",
        "as this package",
        read_sprites,
        provider="latent-zoo",
        labelled=True,
    ),
    "spins": DataSet(
        "2000 x 12",
        "signs on a grid of 3 x 4 from a Boltzmann machine whose couplings are known",
        "drawn by us",
        "as this package",
        read_spins,
        provider="latent-zoo",
    ),
    "letters": DataSet(
        "4 x 25",
        "T, X, B and K on 5 x 5 points, ink 1 and paper -1",
        "drawn by us",
        "as this package",
        read_letters,
        provider="latent-zoo",
    ),
    "earthquakes": DataSet(
        "107 x 1",
        "major earthquakes (magnitude 7 or more) a year, 1900-2006",
        "USGS; W. Zucchini and I. L. MacDonald (2009), table 1.1",
        "facts published by the US government",
        read_earthquakes,
        provider="latent-zoo",
    ),
    "turtles": DataSet(
        "76 x 1",
        "directions that turtles took after a treatment, radians clockwise from north",
        "M. A. Stephens (1969), Techniques for directional data, Stanford report 150; N. I. Fisher (1993), B.3",
        "facts, published often",
        read_turtles,
        provider="latent-zoo",
    ),
    "faithful": DataSet(
        "272 x 2",
        "Old Faithful: minutes of eruption, minutes to the next",
        _RDATASETS.format("datasets"),
        "GPL-2 or GPL-3",
        read_csv("eruptions", "waiting"),
        _rdatasets("datasets", "faithful", "5043db1e2c51c8e8fd67e0868c768ae589770cc76ad0ac0c5b7afd1fca31fc57", 3260),
    ),
    "nile": DataSet(
        "100 x 1",
        "yearly flow of the Nile at Aswan, 1871-1970",
        _RDATASETS.format("datasets"),
        "GPL-2 or GPL-3",
        read_csv("value"),
        _rdatasets("datasets", "Nile", "d0452bea38c61e796a4eeb950bf91d20fb5c7f13d5822eadf5990fe54f9c8d07", 1242),
    ),
    "lynx": DataSet(
        "114 x 1",
        "lynx trapped a year in Canada, 1821-1934",
        _RDATASETS.format("datasets"),
        "GPL-2 or GPL-3",
        read_csv("value"),
        _rdatasets("datasets", "lynx", "0766d4043eb8a20ac83afefff1c78063beff3891571c59e8e38d72503ca86cf1", 1438),
    ),
    "discoveries": DataSet(
        "100 x 1",
        "great inventions and discoveries a year, 1860-1959",
        _RDATASETS.format("datasets"),
        "GPL-2 or GPL-3",
        read_csv("value"),
        _rdatasets("datasets", "discoveries", "02bb14a10cd308044c8b0427ce6ced50e06b1423b9624cd027473c1c4e7ffc8b", 1014),
    ),
    "coal": DataSet(
        "191 x 1",
        "dates of coal-mining disasters in Britain, in years, 1851-1962",
        _RDATASETS.format("boot"),
        "unrestricted",
        read_csv("date"),
        _rdatasets("boot", "coal", "8c8c9f98dca57efc85c8a2e6d73a19f414fcc5e6ece32b1135e95dd176e422f8", 4258),
    ),
    "mnist": DataSet(
        "60000 x 784",
        "handwritten digits, 28 x 28 greys in [0, 1]",
        "http://yann.lecun.com/exdb/mnist/",
        _MNIST_LICENCE,
        read_idx,
        {
            "train": {
                "x": _mnist(
                    "train-images-idx3", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", 9912422
                ),
                "labels": _mnist(
                    "train-labels-idx1", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c", 28881
                ),
            },
            "test": {
                "x": _mnist(
                    "t10k-images-idx3", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", 1648877
                ),
                "labels": _mnist(
                    "t10k-labels-idx1", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", 4542
                ),
            },
        },
        labelled=True,
    ),
    "binarized_mnist": DataSet(
        "50000 x 784",
        "MNIST, binarised once and for all",
        "H. Larochelle and I. Murray (2011), http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
        f"none stated; derived from MNIST ({_MNIST_LICENCE})",
        read_amat,
        {
            "train": _binarized(
                "train",
                ("af247bd6075cf9adc4715459dcd5f13eaa99a2c92d8d81379a05da94770b6c0e", 2196952),
                ("ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d", 78400000),
            ),
            "valid": _binarized(
                "valid",
                ("533b71bc0198f4d73c54ae5fe6c96fc08dc3cf1b3fae24c5521dbc0452507e38", 439620),
                ("1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2", 15680000),
            ),
            "test": _binarized(
                "test",
                ("32a3c54d03504632bf9f131b4a148c7567aa6fc87da017049b044bdc14c2a0f2", 416802),
                ("e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c", 15680000),
            ),
        },
    ),
    **MUSIC,
    **CITIES,
    "spoken_digits": DataSet(
        "2700 x 226 x 39, with lengths",
        "ten digits spoken by six people: 13 mel cepstra and two differences, one frame every 10 ms",
        "Z. Jackson and others, https://github.com/Jakobovski/free-spoken-digit-dataset",
        "CC BY-SA 4.0",
        read_spoken,
        {split: {split: (_RECORDINGS,)} for split in ("train", "test")},
        labelled=True,
    ),
    "digit_strings": DataSet(
        "1078 x 777 x 39, with lengths and y",
        "strings of 3 to 7 spoken digits, with pauses and noise, framed as spoken_digits; y their digits, 10 for 0",
        "joined by us from the recordings of Z. Jackson and others, "
        "https://github.com/Jakobovski/free-spoken-digit-dataset",
        "CC BY-SA 4.0",
        read_digit_strings,
        {split: {split: (_RECORDINGS,)} for split in ("train", "test")},
    ),
    "symbol_strings": DataSet(
        "400 x 39 x 4, with lengths and y",
        "strings of 1 to 4 symbols out of four, each a few noisy frames, with pauses",
        "drawn by us",
        "as this package",
        read_symbol_strings,
        provider="latent-zoo",
    ),
    "known_chain": DataSet(
        "200 x 30 x 6, with lengths",
        "frames of a chain of three states whose codes in the plane are bent into six features; labels are the states",
        "drawn by us",
        "as this package",
        read_known_chain,
        provider="latent-zoo",
        labelled=True,
    ),
    "freyfaces": DataSet(
        "1965 x 560",
        "one face in a film, 28 x 20 greys in [0, 1]",
        "B. Frey, https://cs.nyu.edu/~roweis/data/frey_rawface.mat",
        "none stated; research use",
        read_frey,
        # The published .mat has no checksum we could verify, so it is not downloaded.
        _one(
            File(
                "freyfaces/frey_faces.npz",
                "8ed25c42bdb6af20b6f4e5726029aa07c4b156b1b5ddcc7bb745d5b81b9ab49a",
                996823,
            )
        ),
    ),
    "low_dim_gauss_mix": DataSet(
        "1000 x 1",
        "a mixture of two Gaussians on the line",
        _POSTERIORDB,
        "BSD-3-Clause",
        read_json_zip("y"),
        _posteriordb("low_dim_gauss_mix", "9b5ea284321417a7816b0426a0c96788a6824e6ceb4ec4ecd89493779720b8f9", 9070),
    ),
    "hmm_example": DataSet(
        "100 x 1",
        "one sequence of a Gaussian HMM with two states",
        _POSTERIORDB,
        "BSD-3-Clause",
        read_json_zip("y"),
        _posteriordb("hmm_example", "8c346cc7627db1b5614b1eacb81ab9b0926aa63071ba2f3b6d6ec3b492892787", 1098),
    ),
    "bball_drive": DataSet(
        "416 x 2",
        "a basketball drive: two distances at each step, for an HMM with two states",
        _POSTERIORDB,
        "BSD-3-Clause",
        read_json_zip("u", "v"),
        _posteriordb("bball_drive_event_0", "6bee0a0bb09619784dcaa39ad5c7141626745df03eada28e144d14590f038117", 7463),
    ),
}
