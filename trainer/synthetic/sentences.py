"""Texts that synthetic people speak: random strings of everyday words, in training mixed with invented ones.

Words, and so sentences, of the two splits never meet.
"""

import numpy as np

_TRAINING = """
    about after again air all along animal another answer apple arm around back ball banana bath beach bear before
    begin below better big bird black blue boat body book both bottle box boy bread bridge bring brother build bus
    butter call came car carry cat chair change cheese child clean clock close cloud coat coffee cold colour cook
    corner could country cow cup dance dark day deep dinner doctor dog door down dream drink drive early earth eat
    egg eight evening every eye face family far farm fast father feather field find finger fire first fish five
    floor flower food foot forest four friend garden gave girl give glass go gold good grass great green grow hair
    half hand happy hard head hear heart help here high hill home horse hot house how hundred ice idea island jump
    keep kitchen know lake lamp large last late laugh learn leave left letter light like listen little long look
    love machine make many map market me meet milk mind minute money moon more morning mother mountain mouth move
    much music my name near never new night nine nothing now ocean off often oil old one open orange other our out
    over page paper park people picture place plant play please point pool pretty put queen quick quiet rain read
    red remember rice right river road room round run sail salt same sand say school sea second see seven shade she
    ship shoe shop show sister six sky sleep slow small smile snow soft some song soon soup speak spring stand star
    start stay stone stop story street strong summer sun sure sweet swim table take talk tall teach tell ten thank
    their thing think three time today together tomorrow too tree true try turn two under until up use very village
    voice wait walk wall want warm wash water wave way we weather week what wheel when where which white who why
    wide will wind window winter with woman wood word work world would write year yellow yes you young zoo
"""
_HELD_OUT = """
    above afternoon among autumn baby because believe bottom breakfast bicycle busy candle castle chocolate circle
    city clever cousin cream curtain desert different eagle elbow empty engine enough everyone fabric famous fellow
    figure follow forget fruit funny future gentle ginger guitar hammer honey hotel hungry important jacket journey
    juice kettle ladder lemon lovely lucky mirror monkey mushroom neighbour number onion palace parrot pencil pepper
    pillow pocket potato puzzle rabbit rainbow ready ribbon rocket sailor saddle season seed shoulder silver simple
    soap spider spoon square squirrel strawberry sugar surprise thunder ticket tiger tomato towel travel treasure
    trousers uncle useful valley vegetable violin visit wagon whistle wonder yesterday zebra
"""
_ONSETS = """
    b bl br ch d dr f fl fr g gl gr h j k kl kr l m n p pl pr r s sh sk sl sm sn sp st str sw t th tr tw v w y
    z
"""
_VOWELS = "a ai ar e ea ee er i ie o oa oi oo or ow u"
_CODAS = "b ck d f g k l ll m mp n nd ng nt p r s sh sk st t th v x z"
_OPEN_SYLLABLES = 3
"""Syllables without a last consonant for each one that has a certain one."""
INVENTED_SHARE = 0.6
"""Of the words of training: three hundred words are soon known by heart, and then their sounds are not listened to."""
WORDS = {"train": tuple(_TRAINING.split()), "held_out": tuple(_HELD_OUT.split())}


def draw_text(split: str, words: int, rng: np.random.Generator) -> str:
    """Sentences of three to nine words, ``words`` in all."""
    chosen = [_draw_word(split, rng) for _ in range(words)]
    sentences = []
    while chosen:
        length = int(rng.integers(3, 10))
        sentences.append(" ".join(chosen[:length]).capitalize())
        chosen = chosen[length:]
    return ". ".join(sentences) + "."


def _draw_word(split: str, rng: np.random.Generator) -> str:
    """A word of ``split``; an invented one is up to three syllables that English could have."""
    if split == "held_out" or rng.random() >= INVENTED_SHARE:
        return str(rng.choice(WORDS[split]))
    onsets, vowels, codas = _ONSETS.split(), _VOWELS.split(), [""] * _OPEN_SYLLABLES + _CODAS.split()
    while True:
        syllables = int(rng.integers(1, 4))
        word = "".join(str(rng.choice(part)) for _ in range(syllables) for part in (onsets, vowels, codas))
        if word not in WORDS["held_out"]:
            return word
