"""The things of the world: what captions call them, and the names of their drawings in the artists' sets.

A thing may have several drawings by one hand (a dog's face, a dog from the side): captions make no difference. The
names are those of Unicode's emoji, lower case with hyphens. Where a thing's own name is that of its one drawing, the
table says nothing more.
"""

from __future__ import annotations

# fmt: off
_KNOWN = """
monkey=monkey-face,monkey; dog=dog-face,dog; wolf; fox; cat=cat-face,cat; lion; tiger=tiger-face,tiger;
horse=horse-face,horse; unicorn; deer; cow=cow-face,cow; pig=pig-face,pig; sheep=ewe; goat; camel=camel,two-hump-camel;
elephant; mouse=mouse-face,mouse; rabbit=rabbit-face,rabbit; bat; bear; koala; panda; rooster;
chick=baby-chick,hatching-chick,front-facing-baby-chick; bird; penguin; duck; frog; crocodile; turtle; snake;
dragon=dragon-face,dragon; whale=whale,spouting-whale; dolphin; fish; blowfish; shark; octopus; seashell=spiral-shell;
crab; butterfly; caterpillar=bug; ant; bee=honeybee; ladybug=lady-beetle; spider; spider web=spider-web; bouquet; rose;
sunflower; tulip; seedling; pine tree=evergreen-tree; tree=deciduous-tree; palm tree=palm-tree; cactus;
wheat=sheaf-of-rice; clover=four-leaf-clover,shamrock; maple leaf=maple-leaf; mushroom; grape=grapes; watermelon;
tangerine; lemon; banana; pineapple; apple=red-apple,green-apple; pear; peach; cherry=cherries; strawberry; tomato;
avocado; eggplant; carrot; corncob=ear-of-corn; chili pepper=hot-pepper; loaf of bread=bread; croissant;
cheese=cheese-wedge; chicken leg=poultry-leg; burger=hamburger; box of fries=french-fries; pizza; hot dog=hot-dog;
taco; egg; frying pan=cooking; cooking pot=pot-of-food; popcorn; bowl of noodles=steaming-bowl; sushi; ice
cream=soft-ice-cream,ice-cream; donut=doughnut; cookie; birthday cake=birthday-cake; cake=shortcake; chocolate
bar=chocolate-bar; candy; lollipop; honey pot=honey-pot; baby bottle=baby-bottle; cup=hot-beverage; wine
glass=wine-glass; cocktail=cocktail-glass; beer mug=beer-mug; kitchen knife=kitchen-knife; vase=amphora;
globe=globe-showing-europe-africa,globe-showing-americas,globe-showing-asia-australia; volcano;
mountain=mountain,snow-capped-mountain; temple=classical-building; house=house,house-with-garden; castle;
pagoda=japanese-castle; church; fountain; tent; ferris wheel=ferris-wheel; roller coaster=roller-coaster; circus
tent=circus-tent; locomotive; train=train,metro; bus=bus,oncoming-bus; ambulance; fire engine=fire-engine; police
car=police-car,oncoming-police-car; taxi=taxi,oncoming-taxi; car=automobile,oncoming-automobile; truck=delivery-truck;
tractor; race car=racing-car; motorcycle; scooter=motor-scooter; bicycle; gas pump=fuel-pump; traffic
light=vertical-traffic-light,horizontal-traffic-light; anchor; sailboat; canoe; speedboat; ship;
airplane=airplane,small-airplane; helicopter; hourglass=hourglass-done,hourglass-not-done; wristwatch=watch; alarm
clock=alarm-clock; thermometer; sun=sun,sun-with-face; star=star,glowing-star; cloud; tornado; rainbow;
umbrella=umbrella,umbrella-with-rain-drops; snowflake; snowman=snowman,snowman-without-snow; flame=fire; droplet;
pumpkin=jack-o-lantern; christmas tree=christmas-tree; balloon; bow=ribbon; gift=wrapped-gift;
medal=sports-medal,military-medal; trophy; soccer ball=soccer-ball; baseball; basketball; volleyball;
football=american-football; tennis racket=tennis; boxing glove=boxing-glove; ice skate=ice-skate; crystal
ball=crystal-ball; game controller=video-game; die=game-die; picture frame=framed-picture; palette=artist-palette;
paper lantern=red-paper-lantern; necktie; shirt=t-shirt; dress; handbag; backpack; boot=woman-s-boot; shoe=man-s-shoe;
sneaker=running-shoe; high heel=high-heeled-shoe; crown; sun hat=woman-s-hat; top hat=top-hat; lipstick; ring;
diamond=gem-stone; megaphone=megaphone,loudspeaker; bell; microphone=microphone,studio-microphone; headphone; radio;
saxophone; trumpet; guitar; piano=musical-keyboard; violin; drum; phone=mobile-phone; telephone; battery; laptop;
computer=desktop-computer; printer; keyboard; computer mouse=computer-mouse; floppy disk=floppy-disk; compact
disc=optical-disk,dvd; movie camera=movie-camera; television; camera=camera,camera-with-flash; magnifying
glass=magnifying-glass-tilted-left,magnifying-glass-tilted-right; candle; light bulb=light-bulb; flashlight;
book=closed-book,green-book,blue-book,orange-book,notebook-with-decorative-cover; open book=open-book; scroll;
newspaper=newspaper,rolled-up-newspaper; money bag=money-bag; envelope; package;
mailbox=closed-mailbox-with-raised-flag,closed-mailbox-with-lowered-flag; postbox; pencil; fountain pen=fountain-pen;
paintbrush; crayon; briefcase; calendar; pushpin; paperclip; ruler=straight-ruler; trash can=wastebasket;
padlock=locked; key=key,old-key; hammer; dagger; bomb; shield; wrench; gear; scale=balance-scale; microscope;
telescope; satellite dish=satellite-antenna; syringe; pill; door; bed; couch=couch-and-lamp; toilet; bathtub; moai;
ghost; skull; alien
"""

_UNKNOWN = """
snail; teapot; rocket; robot; giraffe; teddy bear=teddy-bear; chair; flamingo; owl; kangaroo; zebra; hedgehog; llama;
parrot; peacock; cupcake; pretzel; sandwich; skateboard; kite; lobster; swan; toolbox; yo-yo
"""
# fmt: on


def _parse(table: str) -> dict[str, tuple[str, ...]]:
    things = {}
    for entry in table.replace("\n", " ").split(";"):
        name, _, drawings = entry.strip().partition("=")
        things[name] = tuple(drawings.split(",")) if drawings else (name.replace(" ", "-"),)
    return things


THINGS = _parse(_KNOWN)
"""Name in captions → names of the drawings, of every thing that the model is trained on."""

UNKNOWN_THINGS = _parse(_UNKNOWN)
"""The same of things kept out of every training program, the judge's included."""
