"""Both editions read, every refusal a sentence, and the cleaning of real traps."""

import os
import warnings

import pandas as pd
import pytest

from kit.core.exceptions import KitError
from kit.data.challenge import find_images, read_challenge, read_names
from kit.data.text import clean_text
from kit.training.tfidf import tfidf_model

CSV = {
    "X_train_update.csv": ",designation,description,productid,imageid\n"
    '0,Piscine ronde,"<b>Grande</b><br />piscine &eacute;t&eacute;",11,21\n'
    "1,NaN,,12,22\n"
    '2,"Livre ""ancien"", relié","deux\nlignes",13,23\n',
    "Y_train_CVw08PX.csv": ",prdtypecode\n0,2583\n1,10\n2,2705\n",
    "X_test_update.csv": ",designation,description,productid,imageid\n3,Jeu &amp; console,null,14,24\n",
}
X_TSV = "Integer_id\tTitle\tDescription\tImage_id\tProduct_id\n"
TSV = {
    "X_train.tsv": X_TSV + '0\tPiscine\t"un ""beau"" bleu"\t21\t11\n1\tÉcran 15" plat\t\t22\t12\n',
    "Y_train.tsv": "Integer_id\tImage_id\tProduct_id\tPrdtypecode\n1\t22\t12\t40\n0\t21\t11\t2583\n",
    "x_test_task1_phase1.tsv": X_TSV + "5\tA\tNan\t31\t41\n",
    "x_test_task1_phase2.tsv": X_TSV + "6\tB\t\t32\t42\n7\tC\tc\t33\t43\n",
}
X, Y, T = CSV


def fill(folder, files):
    for name, text in files.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def put_images(folder, *keys):
    folder.mkdir(parents=True, exist_ok=True)
    for image, product in keys:
        (folder / f"image_{image}_product_{product}.jpg").touch()


def refusal(folder, **options):
    with pytest.raises(KitError) as caught:
        read_challenge(folder, **{"images": "ignore", **options})
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    return str(caught.value)


def test_challengedata(tmp_path):
    put_images(fill(tmp_path, CSV) / "images" / "image_train", (21, 11), (22, 12), (23, 13))
    put_images(tmp_path / "images" / "image_test", (24, 14), (21, 11))
    challenge = read_challenge(tmp_path)
    assert (challenge.edition, challenge.folder, list(challenge.test)) == ("challengedata", tmp_path, ["test"])
    train = challenge.train
    assert list(train) == ["id", "title", "description", "image_id", "product_id", "label", "image_path", "fingerprint"]
    assert train["title"].tolist() == ["Piscine ronde", "NaN", 'Livre "ancien", relié']
    assert train["description"].tolist() == ["Grande piscine été", None, "deux lignes"]
    assert train["label"].tolist() == [2583, 10, 2705] and challenge.classes == [10, 2583, 2705]
    assert {str(train[name].dtype) for name in ("id", "image_id", "product_id", "label")} == {"int64"}
    assert train["image_path"][0] == str(tmp_path / "images" / "image_train" / "image_21_product_11.jpg")
    test = challenge.test["test"]
    assert test[["id", "title", "description"]].to_numpy().tolist() == [[3, "Jeu & console", "null"]]
    assert "label" not in test and challenge.names == {}


def test_sigir(tmp_path):
    challenge = read_challenge(fill(tmp_path, TSV), images="ignore")
    assert challenge.edition == "sigir" and list(challenge.test) == ["task1_phase1", "task1_phase2"]
    assert challenge.train["title"].tolist() == ["Piscine", 'Écran 15" plat']
    assert challenge.train["description"].tolist() == ['un "beau" bleu', None]
    assert challenge.train["label"].tolist() == [2583, 40]  # joined by id, not by row
    assert challenge.test["task1_phase1"]["description"].tolist() == ["Nan"]
    assert challenge.test["task1_phase2"]["id"].tolist() == [6, 7]


def test_raw_text_case_of_names_mark_and_whole_floats(tmp_path):
    x = CSV[X].replace("11,21", "11.0,21.").replace("12,22", "9007199254740993,22")
    files = {"x_TRAIN.CSV": "\ufeff" + x, "y_train.csv": CSV[Y], "classes.csv": "code,name\n10,Livres\n40,Jeux\n"}
    challenge = read_challenge(fill(tmp_path, files), clean_titles=False, clean_descriptions=False, images="ignore")
    assert challenge.train["description"][0] == "<b>Grande</b><br />piscine &eacute;t&eacute;"
    assert challenge.train["product_id"].tolist() == [11, 2**53 + 1, 13]
    assert challenge.train["image_path"].isna().all() and challenge.test == {}
    assert challenge.names == read_names(tmp_path) == {10: "Livres", 40: "Jeux"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({X: None}, ["lacks X_train*.csv", "download"]),
        ({Y: None}, ["lacks Y_train*.csv", "challengedata"]),
        ({X: None, Y: None, T: None, "notes.txt": "hello"}, ["no challenge files", "notes.txt", "give a folder"]),
        ({"X_train.tsv": "x"}, ["both editions", "give a folder"]),
        ({"X_train_old.csv": CSV[X]}, ["2 candidates", "X_train_old.csv and X_train_update.csv", "keep one"]),
        ({X: ""}, [X, "is empty", "download"]),
        ({X: CSV[X].splitlines()[0] + "\n"}, [X, "empty below its header"]),
        ({T: CSV[X].splitlines()[0] + "\n"}, [T, "empty below its header"]),
        ({X: CSV[X].replace("designation", "title")}, [X, "designation", "description, productid", "rename"]),
        ({Y: "id,prdtypecode\n0,10\n"}, [Y, "unnamed index", "id, prdtypecode"]),
        ({X: CSV[X].replace(",", ";")}, [X, "semicolon", "comma"]),
        ({Y: CSV[Y].replace(",", "\t")}, [Y, "a tab", "comma"]),
        ({X: CSV[X].replace("Piscine", "a,b")}, [X, "line 2: 6 fields, not 5", "mend"]),
        ({X: CSV[X].replace("NaN", "a,b,c")}, [X, "line 3: 7 fields, not 5", "mend"]),
        ({Y: ",prdtypecode\n0,10,\n1,10,\n2,10,\n"}, [Y, "line 2: 3 fields, not 2"]),
        ({Y: ",prdtypecode\n0,10\n1,10,7\n2,10\n"}, [Y, "line 3", "mend"]),
        ({X: CSV[X] + '3,"open,x,1,2\n'}, [X, "line 6", "is never closed", "remove or close it"]),
        ({X: CSV[X].encode().replace(b"NaN", b"\xe9t\xe9")}, [X, "line 3", "UTF-8"]),
        ({X: CSV[X].encode("utf-16")}, [X, "UTF-16", "UTF-8"]),
        ({Y: CSV[Y] + "7,10\n"}, ["3 rows", "4", "1 only in " + Y, "(7)", "same download"]),
        ({Y: CSV[Y].replace("2,2705", "9,2705")}, ["1 only in " + X, "(2)", "1 only in " + Y, "(9)"]),
        ({X: CSV[X].replace("1,NaN", "0,NaN")}, [X, "same id in two rows (0)", "keep one"]),
        ({Y: CSV[Y].replace("2,2705", "1,2705")}, [Y, "same id in two rows (1)"]),
        ({X: CSV[X].replace("12,22", "12,22.5")}, [X, "line 3", "imageid is '22.5'", "whole number"]),
        ({X: CSV[X].replace("12,22", "12,")}, [X, "line 3", "imageid is missing"]),
        ({T: CSV[T].replace("14,24", "abc,24")}, [T, "line 2", "productid is 'abc'"]),
        ({Y: CSV[Y].replace("1,10", "1,")}, [Y, "line 3", "prdtypecode is missing"]),
        ({Y: CSV[Y].replace("1,10", "1,nan")}, [Y, "line 3", "prdtypecode is 'nan'"]),
        ({X: CSV[X].replace("NaN", " ")}, [X, "empty title", "id 1"]),
        ({X: CSV[X].replace("NaN", "&nbsp;")}, [X, "empty title", "id 1", "fill"]),
        ({X: CSV[X].replace("imageid", "Designation ")}, [X, "column designation more than once", "keep one"]),
        ({"classes.csv": "code,label\n10,x\n"}, ["classes.csv", "name", "code, label"]),
    ],
)
def test_refusals(tmp_path, change, words):
    files = {name: text for name, text in {**CSV, **change}.items() if text is not None}
    sentence = refusal(fill(tmp_path, files))
    assert all(word in sentence for word in words), sentence


def test_more_refusals(tmp_path):
    assert "no/such" in refusal(tmp_path / "no/such") and "give the folder" in refusal(tmp_path / "no/such")
    assert "choose one of require" in refusal(tmp_path, images="maybe")
    fill(tmp_path, {**TSV, "Y_train.tsv": TSV["Y_train.tsv"].replace("22\t12", "22\t99")})
    assert "disagree on product_id in 1 rows (id 1)" in refusal(tmp_path)


def test_images(tmp_path):
    put_images(fill(tmp_path, CSV) / "a", (21, 11))
    (tmp_path / "a" / "b").mkdir()
    (tmp_path / "a" / "b" / "IMAGE_22_Product_12.PNG").touch()
    put_images(tmp_path / "a" / "test", (24, 14))
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    for name in ("itself", "image_1_product_1.jpg", "a/itself"):
        (tmp_path / name).symlink_to(tmp_path / name)
    (tmp_path / "a" / "image_23_product_13.jpg").symlink_to(tmp_path / "gone.jpg")
    sentence = refusal(tmp_path, images="require")
    for word in ("1 of the 3 images", X, "image_23_product_13.jpg", "-p missing blank"):
        assert word in sentence
    with pytest.warns(UserWarning, match="1 of the 3"):
        train = read_challenge(tmp_path, images="warn").train
    assert train["image_path"].isna().tolist() == [False, False, True]
    assert train["image_path"][1].endswith("IMAGE_22_Product_12.PNG")


def test_image_links_that_leave_the_folder_are_named(tmp_path):
    put_images(tmp_path / "disk", (21, 11), (22, 12), (23, 13), (24, 14))
    (tmp_path / "data").mkdir()
    fill(tmp_path / "data", CSV)
    (tmp_path / "data" / "images").symlink_to(tmp_path / "disk")
    sentence = refusal(tmp_path / "data", images="require")
    assert "3 of the 3" in sentence and "images, a link that leaves the folder" in sentence


def test_a_folder_that_may_not_be_read_is_named_and_its_images_are_missing(tmp_path, monkeypatch):
    put_images(fill(tmp_path, CSV) / "images", (21, 11), (22, 12))
    put_images(tmp_path / "lost+found", (23, 13))
    scan = os.scandir

    def refuse(folder):
        if os.fspath(folder) == str(tmp_path / "lost+found"):
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.warns(UserWarning, match=r"lost\+found cannot be listed, so no images are found there"):
        train = read_challenge(tmp_path, images="leave").train
    assert train["image_path"].isna().tolist() == [False, False, True]
    with pytest.raises(KitError, match="cannot be listed"):
        find_images(tmp_path / "lost+found")


def test_same_image_name_in_two_phases(tmp_path):
    fill(tmp_path, {**TSV, "x_test_task1_phase2.tsv": X_TSV + "6\tB\t\t31\t41\n"})
    put_images(tmp_path / "image_training", (21, 11), (22, 12), (31, 41))
    for phase in ("phase1", "phase2"):
        put_images(tmp_path / "image" / "image_test" / f"image_test_task1_{phase}", (31, 41))
    challenge = read_challenge(tmp_path)
    for phase in ("phase1", "phase2"):
        assert f"image_test_task1_{phase}" in challenge.test[f"task1_{phase}"]["image_path"][0]


def test_two_images_of_one_item_must_be_the_same(tmp_path):
    fill(tmp_path, CSV)
    for folder in ("image_train", "again/image_train", "backup/image_train"):
        put_images(tmp_path / folder, (21, 11), (22, 12), (23, 13))
    put_images(tmp_path / "image_test", (24, 14))
    assert read_challenge(tmp_path).train["image_path"].notna().all()
    (tmp_path / "backup" / "image_train" / "image_22_product_12.jpg").write_bytes(b"another")
    sentence = refusal(tmp_path, images="require")
    for word in (X, "two different images", "backup/image_train/image_22_product_12.jpg", "remove"):
        assert word in sentence


def test_three_thousand_rows(tmp_path):
    rows = range(3000)
    text = "<p>Canap&eacute; d'angle &amp; pouf</p> très confortable, " * 20
    lines = [f"{i},Titre {i},{text.replace(',', ';') + 'Ã©tÃ©' * (i % 30 == 1) if i % 3 else ''},{i},{i}" for i in rows]
    head = CSV[X].splitlines()[0]
    fill(tmp_path, {X: "\n".join([head, *lines]), Y: "\n".join([",prdtypecode", *(f"{i},{i % 27}" for i in rows)])})
    put_images(tmp_path / "images", *((i, i) for i in rows))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train = read_challenge(tmp_path).train
    assert train["description"].isna().sum() == 1000 and len(pd.unique(train["image_path"])) == 3000
    assert train["description"][1].startswith("Canapé d'angle & pouf très confortable; Canapé")
    assert train["description"][1].endswith("; été")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("rien à changer", "rien à changer"),
        ("un<br />deux<br>trois<BR/>quatre", "un deux trois quatre"),
        ("Tol&eacute;rance &#39;0&#39; &nbsp; &#x2019;", "Tolérance '0' \u2019"),
        ("&amp;eacute;t&amp;amp;eacute;", "été"),
        ("Four&micro-ondes", "Four&micro-ondes"),  # an entity has its semicolon
        ("fiche.php?id=1&para=2&copy=3", "fiche.php?id=1&para=2&copy=3"),
        ("Sport&notice; Chaise&reglable;", "Sport&notice; Chaise&reglable;"),  # nor is a part of a word one
        ("Guitare&amp Fender caf&eacute lot&#39 BD&#x41", "Guitare&amp Fender caf&eacute lot&#39 BD&#x41"),
        ("&sup2;&Eacute;&frac12;&hellip;&rsquo;&#8364;&#xE9;", "²É½…\u2019€é"),
        ("&" + "#" + "1" * 5000 + ";", "&" + "#" + "1" * 5000 + ";"),
        ("e\u0301te\u0301 a\u030a \u212b ac\u0327a", "été å Å aça"),
        ("e&#x301;te\u0301 Ã©tÃ©", "été été"),
        ("&lt;br /&gt;ligne", "ligne"),
        ("a < b et c > d", "a < b et c > d"),
        ("a <b et c", "a <b et c"),
        ("5<10 et x<y>z <3", "5<10 et x<y>z <3"),
        ("taille <M> AT&T R&D", "taille <M> AT&T R&D"),
        ("<a title=\"1 > 0\" href='x'>lien</a>", "lien"),
        ('<p style="color:red>rouge</p>', "rouge"),
        ("<img alt=l'eau>eau", "eau"),
        ("<o:p></o:p><h2 class=x>Titre</h2>", "Titre"),
        ("<style type='text/css'>p > a {}</style>vu<SCRIPT>var a='<b>';</SCRIPT>", "vu"),
        ("vu <script>jamais fermé", "vu"),
        ("<!-- caché <b> --><!DOCTYPE html><?xml version='1'?>vu", "vu"),
        ("tÃ©lÃ©phone dâ€™Ã©tÃ© Ã  vendre", "téléphone d\u2019été à vendre"),
        ("&Atilde;&copy;t&Atilde;&copy;", "été"),
        ("à¢me", "à¢me"),  # beyond ftfy
        ("?uvre n?ud", "?uvre n?ud"),
        ("Größe ½ ² “mot” N° 5 €", "Größe ½ ² “mot” N° 5 €"),
        ("a\x00b\x07 c\x0bd", "ab c d"),
        ("zéro\u200blar\u00adgeur\ufeff", "zérolargeur"),
        (" espaces \t\r\n et\u00a0\u2003suite ", "espaces et suite"),
        ("<br>", ""),
    ],
)
def test_clean_text(text, clean):
    assert clean_text(text) == clean == clean_text(clean)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Jeu &amp;  console\t&#39;64&#39;", "Jeu & console '64'"),
        ("&amp;eacute;t&eacute;", "été"),
        ("<b>Ã©tÃ©</b> ?uvre", "<b>Ã©tÃ©</b> ?uvre"),
        ("Table&micro; Four&micro-ondes e\u0301te\u0301", "Tableµ Four&micro-ondes été"),
    ],
)
def test_light_cleaning_leaves_titles_alone(text, clean):
    assert clean_text(text, light=True) == clean


@pytest.mark.parametrize("piece", ["<a ", '<p "', "<script>", "<!--", " '\"", "&lt;"])
def test_pathological_markup_comes_to_an_end(piece):
    """Where the work grew with the square of the length, this would take hours."""
    assert len(clean_text("<b" + piece * 100_000)) <= 100_000 * len(piece) + 2


def test_accents_are_composed_whatever_is_cleaned(tmp_path):
    apart = {X: CSV[X].replace("Piscine ronde", "Re\u0301ve\u0301 <b>").replace("Grande", "a\u0300 l'e\u0301te\u0301")}
    for cleaned in (True, False):
        train = read_challenge(fill(tmp_path, CSV | apart), cleaned, cleaned, images="ignore").train
        assert train["title"][0] == "Révé <b>" and "à l'été" in train["description"][0]
    one, two = tfidf_model().fit(["café", "bière"], [1, 2])[0].transform(["ÉTÉ café", "E\u0301TE\u0301 cafe\u0301"])
    assert (one != two).nnz == 0


# ---------------------------------------------------------------- quotation marks

HEADS = {"challengedata": CSV[X].splitlines()[0], "sigir": X_TSV.strip()}
TRAINS = {"challengedata": X, "sigir": "X_train.tsv"}
TESTS = {"challengedata": T, "sigir": "x_test_task1_phase1.tsv"}
ROWS = [[str(7 + i), title, text, str(60 + i), str(80 + i)] for i, (title, text) in enumerate([
    ("Table ronde", ""), ("Lampe", "grande lampe"), ("Livre neuf", ""), ("1984", ""), ("Jeu", "de cartes"),
    ("Piscine", "bleue"),
])]  # fmt: skip


def write_items(folder, edition, rows, name=None, end="\n", order=None):
    """A whole catalogue whose test file, or the file `name`, has `rows`, which are joined as they are."""
    fill(folder, CSV if edition == "challengedata" else TSV)
    sep = "," if edition == "challengedata" else "\t"
    lines = [HEADS[edition], *(sep.join(rows[place]) for place in order or range(len(rows)))]
    (folder / (name or TESTS[edition])).write_bytes((end.join(lines) + end).encode())
    return folder


def edited(*changes):
    rows = [list(row) for row in ROWS]
    for row, column, value in changes:
        rows[row][column] = value
    return rows


STRAY = {  # the changed fields (row, column, as they are in the file) → the lines that are named
    "two titles": ([(0, 1, '"Table 20 pouces'), (3, 1, 'livre 24"')], "lines 2 to 5"),
    "two that begin": ([(0, 1, '"Table'), (1, 1, '"Lampe')], "lines 2 to 3"),
    "one row lost, of digits": ([(2, 1, '"Livre'), (3, 1, '1984"')], "lines 4 to 5"),
    "a description": ([(1, 2, '"20 pouces'), (4, 2, 'de "cartes"')], "lines 3 to 6"),
    "a doubled mark": ([(0, 1, '"""Table"" ronde'), (4, 1, 'Jeu"')], "lines 2 to 6"),
    "the key": ([(0, 0, '"7'), (2, 0, '9"')], "lines 2 to 4"),
    "a number": ([(0, 4, '"80'), (1, 0, '8"')], "lines 2 to 3"),
    "a closing mark lost": ([(0, 2, '"deux\nlignes'), (3, 2, '"x"')], "lines 2 to 6"),
    "a row of two lines": ([(0, 1, '"Table'), (1, 1, '"Lampe"'), (1, 2, '"deux\nlignes"')], "lines 2 to 3"),
    "never closed": ([(1, 1, '"Lampe'), (2, 1, "Livre")], "line 3"),
    "the last row": ([(5, 1, '"Piscine')], "line 7"),
    "the second field of a row": ([(4, 1, '"Jeu\nde cartes"'), (4, 2, '"x')], "line 7"),
}


@pytest.mark.parametrize("edition", HEADS)
@pytest.mark.parametrize("part", ["test", "train"])
@pytest.mark.parametrize("name", STRAY)
def test_rows_that_a_stray_mark_swallows_are_refused(tmp_path, edition, part, name):
    changes, lines = STRAY[name]
    file = (TESTS if part == "test" else TRAINS)[edition]
    for end in ("\n", "\r\n", "\r"):
        for order in (None, (0, 1, 2, 3, 4, 5) if "line " in lines else (5, 0, 1, 2, 3, 4)):
            sentence = refusal(write_items(tmp_path, edition, edited(*changes), file, end, order))
            assert file in sentence and "mark" in sentence, sentence
            if not order:
                assert f"{file}, {lines}:" in sentence, sentence


LEGAL = [
    "deux\nlignes",
    "une, deux\ntrois, quatre, cinq\n\nsix",
    "Pointures :\n36,37,38,39,40\nneuf",
    "12,5 cm de large, 3,4,5\n12,5 cm de haut, 6,7,8",
    'dit ""petit""\n24"" et ""grand""',
    "1\t2\t3\n4\t5",
    "7,copie de la table,,60,80\n8,Lampe,x,61,81",  # rows that are all in the table: none is lost
]


@pytest.mark.parametrize("edition", HEADS)
@pytest.mark.parametrize("text", LEGAL)
def test_descriptions_of_several_lines_are_legal(tmp_path, edition, text):
    for end in ("\n", "\r\n", "\r"):
        for row in (0, 3, 5):
            rows = edited((row, 2, f'"{text}"'.replace("\n", end)))
            challenge = read_challenge(
                write_items(tmp_path, edition, rows, end=end), clean_descriptions=False, images="ignore"
            )
            test = next(iter(challenge.test.values()))
            assert test["id"].tolist() == list(range(7, 13)) and test["title"][2] == "Livre neuf"
            assert test["description"][row] == text.replace('""', '"').replace("\n", end)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({Y: CSV[Y].replace("2583", '"2583').replace("2705", '2705"')}, [Y, "lines 2 to 4", "stray mark"]),
        ({Y: CSV[Y].replace("1,10", '1,"10')}, [Y, "line 3", "is never closed"]),
        ({"classes.csv": 'code,name\n10,"Livres\n40,Jeux\n50,Vins"\n'}, ["classes.csv", "lines 2 to 4"]),
        ({X: CSV[X].replace("designation", '"designation').replace("ronde", 'ronde"')}, [X, "lines 1 to 2", "header"]),
        ({X: CSV[X].replace("1,NaN", "007,NaN")}, [X, "line 3", "row index is '007'", "read as 7", "leading zeros"]),
        ({Y: CSV[Y].replace("2583", "0010")}, [Y, "line 2", "prdtypecode is '0010'", "read as 10"]),
        (
            {Y: CSV[Y].replace("2583", "10.0")},
            [Y, "line 3", "prdtypecode is '10'", "'10.0' in another", "the same way"],
        ),
        ({X: CSV[X].replace("12,22", "-03,22")}, [X, "line 3", "productid", "'-03'"]),
        ({"classes.csv": "code,name\n10,A\n010,B\n"}, ["classes.csv", "line 3", "code is '010'"]),
        ({X: ("," + CSV[X]).replace("\n", "\n5,").replace(",,des", ",Unnamed: 0,des")}, [X, "2 columns that may be"]),
        ({X: ("," + CSV[X]).replace("\n", "\n5,")}, [X, "2 columns that may be the row index", "unnamed column 2"]),
        ({X: CSV[X].replace("designation,", "designation,designation,")}, [X, "column designation more than once"]),
    ],
)
def test_refusals_of_what_would_be_taken_for_something_else(tmp_path, change, words):
    sentence = refusal(fill(tmp_path, CSV | change))
    assert all(word in sentence for word in words), sentence


def test_an_index_that_pandas_named_and_empty_columns_at_the_end(tmp_path):
    y = "Unnamed: 0,prdtypecode,\n0,2583,\n1,10\n2,2705.0,\n"
    train = read_challenge(fill(tmp_path, CSV | {Y: y}), images="ignore").train
    assert train["label"].tolist() == [2583, 10, 2705]
