"""The things of the world: what captions call them, and the names of their drawings in the artists' sets.

A thing may have several drawings by one hand (a dog's face, a dog from the side): captions make no difference. The
names are those of Unicode's emoji, lower case with hyphens. Where a thing's own name is that of its one drawing, the
table says nothing more.
"""

from __future__ import annotations

# fmt: off
_KNOWN = """
monkey=monkey-face,monkey; gorilla; dog=dog-face,dog; wolf; fox; cat=cat-face,cat; lion; tiger=tiger-face,tiger;
leopard; horse=horse-face,horse; unicorn; deer; cow=cow-face,cow; pig=pig-face,pig; sheep=ewe; goat;
camel=camel,two-hump-camel; elephant; rhinoceros; mouse=mouse-face,mouse; hamster; rabbit=rabbit-face,rabbit;
chipmunk; bat; bear; koala; panda; turkey; rooster; chick=baby-chick,hatching-chick,front-facing-baby-chick; bird;
penguin; eagle; duck; frog; crocodile; turtle; lizard; snake; dragon=dragon-face,dragon; whale=whale,spouting-whale;
dolphin; fish; angelfish=tropical-fish; blowfish; shark; octopus; seashell=spiral-shell; crab; shrimp; squid;
butterfly; caterpillar=bug; ant; bee=honeybee; ladybug=lady-beetle; spider; spider web=spider-web; scorpion; cricket;
paw print=paw-prints; bouquet; cherry blossom=cherry-blossom; rose; hibiscus; sunflower; daisy=blossom; tulip;
seedling; pine tree=evergreen-tree; tree=deciduous-tree; palm tree=palm-tree; cactus; wheat=sheaf-of-rice; herb;
clover=four-leaf-clover,shamrock; maple leaf=maple-leaf; leaf=leaf-fluttering-in-wind,fallen-leaf; mushroom;
grape=grapes; melon; watermelon; tangerine; lemon; banana; pineapple; apple=red-apple,green-apple; pear; peach;
cherry=cherries; strawberry; kiwi=kiwi-fruit; tomato; avocado; eggplant; potato; carrot; corncob=ear-of-corn; chili
pepper=hot-pepper; cucumber; peanut=peanuts; chestnut; loaf of bread=bread; croissant; baguette=baguette-bread;
pancake=pancakes; cheese=cheese-wedge; ham=meat-on-bone; chicken leg=poultry-leg; slice of bacon=bacon;
burger=hamburger; box of fries=french-fries; pizza; hot dog=hot-dog; taco; burrito; egg; frying pan=cooking;
paella=shallow-pan-of-food; cooking pot=pot-of-food; salad=green-salad; popcorn; lunch box=bento-box; rice
ball=rice-ball; bowl of rice=cooked-rice; curry=curry-rice; bowl of noodles=steaming-bowl; plate of
spaghetti=spaghetti; sushi; dango; ice cream=soft-ice-cream,ice-cream; snow cone=shaved-ice; donut=doughnut; cookie;
birthday cake=birthday-cake; cake=shortcake; chocolate bar=chocolate-bar; candy; lollipop; pudding=custard; honey
pot=honey-pot; baby bottle=baby-bottle; glass of milk=glass-of-milk; cup=hot-beverage; teacup=teacup-without-handle;
sake bottle=sake; champagne bottle=bottle-with-popping-cork; wine glass=wine-glass; cocktail=cocktail-glass; tropical
drink=tropical-drink; beer mug=beer-mug; tumbler=tumbler-glass; spoon; kitchen knife=kitchen-knife; vase=amphora;
globe=globe-showing-europe-africa,globe-showing-americas,globe-showing-asia-australia; volcano;
mountain=mountain,snow-capped-mountain; stadium; temple=classical-building; house=house,house-with-garden; office
building=office-building; hospital; school; factory; castle; pagoda=japanese-castle; church; mosque;
shrine=shinto-shrine; fountain; tent; statue=statue-of-liberty; tower=tokyo-tower; ferris wheel=ferris-wheel; roller
coaster=roller-coaster; carousel=carousel-horse; circus tent=circus-tent; locomotive; bullet
train=high-speed-train,bullet-train; train=train,metro; tram=tram,tram-car; bus=bus,oncoming-bus; ambulance; fire
engine=fire-engine; police car=police-car,oncoming-police-car; taxi=taxi,oncoming-taxi;
car=automobile,oncoming-automobile; truck=delivery-truck; tractor; race car=racing-car; motorcycle;
scooter=motor-scooter; bicycle; gas pump=fuel-pump; siren=police-car-light; traffic
light=vertical-traffic-light,horizontal-traffic-light; anchor; sailboat; canoe; speedboat; ship;
airplane=airplane,small-airplane; helicopter; cable car=aerial-tramway,mountain-cableway; satellite;
hourglass=hourglass-done,hourglass-not-done; wristwatch=watch; alarm clock=alarm-clock; stopwatch;
clock=mantelpiece-clock; thermometer; sun=sun,sun-with-face; star=star,glowing-star; cloud; tornado; rainbow;
umbrella=umbrella,umbrella-with-rain-drops; snowflake; snowman=snowman,snowman-without-snow; comet; flame=fire;
droplet; pumpkin=jack-o-lantern; christmas tree=christmas-tree; balloon; party popper=party-popper; bow=ribbon;
gift=wrapped-gift; ticket; medal=sports-medal,military-medal; trophy; soccer ball=soccer-ball; baseball; basketball;
volleyball; football=american-football; tennis racket=tennis; bowling ball=bowling; paddle=ping-pong; badminton
racket=badminton; boxing glove=boxing-glove; ice skate=ice-skate; fishing rod=fishing-pole; billiard ball=pool-8-ball;
crystal ball=crystal-ball; game controller=video-game; joystick; slot machine=slot-machine; die=game-die; wind
chime=wind-chime; picture frame=framed-picture; palette=artist-palette; paper lantern=red-paper-lantern; necktie;
shirt=t-shirt; dress; kimono; purse; handbag; pouch=clutch-bag; backpack; sandal=woman-s-sandal; boot=woman-s-boot;
shoe=man-s-shoe; sneaker=running-shoe; high heel=high-heeled-shoe; crown; sun hat=woman-s-hat; top hat=top-hat;
lipstick; ring; diamond=gem-stone; megaphone=megaphone,loudspeaker; horn=postal-horn; bell;
microphone=microphone,studio-microphone; headphone; radio; saxophone; trumpet; guitar; piano=musical-keyboard; violin;
drum; phone=mobile-phone; telephone; fax machine=fax-machine; battery; plug=electric-plug; laptop;
computer=desktop-computer; printer; keyboard; computer mouse=computer-mouse; floppy disk=floppy-disk; compact
disc=optical-disk,dvd; movie camera=movie-camera; projector=film-projector; clapper board=clapper-board; television;
camera=camera,camera-with-flash; video camera=video-camera; cassette=videocassette; magnifying
glass=magnifying-glass-tilted-left,magnifying-glass-tilted-right; candle; light bulb=light-bulb; flashlight;
book=closed-book,green-book,blue-book,orange-book,notebook-with-decorative-cover; open book=open-book; scroll;
newspaper=newspaper,rolled-up-newspaper; bookmark; label; money bag=money-bag; credit card=credit-card; envelope;
package; mailbox=closed-mailbox-with-raised-flag,closed-mailbox-with-lowered-flag; postbox; pencil; fountain
pen=fountain-pen; pen; paintbrush; crayon; briefcase; folder=file-folder; calendar; clipboard; pushpin; paperclip;
ruler=straight-ruler; file cabinet=file-cabinet; trash can=wastebasket; padlock=locked; key=key,old-key; hammer;
pickaxe=pick; dagger; bomb; shield; wrench; gear; clamp; scale=balance-scale; microscope; telescope; satellite
dish=satellite-antenna; syringe; pill; door; bed; couch=couch-and-lamp; toilet; shower; bathtub; shopping
cart=shopping-cart; moai; ghost; skull; alien
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
