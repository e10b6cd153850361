"""The 80 COCO classes and the words people use for them: plurals, synonyms and groups."""

from __future__ import annotations

CLASSES: tuple[str, ...] = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench"),
    *("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"),
    *("backpack", "umbrella", "handbag", "tie", "suitcase"),
    *("frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard"),
    *("surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl"),
    *("banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake"),
    *("chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote"),
    *("keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock"),
    *("vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)
"""In the order of the network's output (https://cocodataset.org, the 80 of ``instances``)."""

IRREGULAR_PLURALS = {
    "person": "people",
    "man": "men",
    "woman": "women",
    "child": "children",
    "mouse": "mice",
    "knife": "knives",
    "sheep": "sheep",
    "aircraft": "aircraft",
    "ox": "oxen",
    "calf": "calves",
    "foal": "foals",
    "broccoli": "broccoli",
    "cattle": "cattle",
    "luggage": "luggage",
    "skis": "skis",
    "scissors": "scissors",
    "bus": "buses",
    "policeman": "policemen",
    "policewoman": "policewomen",
    "fireman": "firemen",
    "workman": "workmen",
    "salesman": "salesmen",
}

SYNONYMS: dict[str, str] = {
    "person": "human, human being, man, woman, child, kid, boy, girl, baby, toddler, infant, adult, teenager, "
    "pedestrian, passer by, passers by, passerby, passersby, bystander, somebody, someone, anybody, anyone, "
    "everybody, everyone, nobody, no one, guy, lady, gentleman, crowd, worker, workman, employee, visitor, customer, "
    "shopper, passenger, "
    "driver, player, runner, walker, jogger, skier, surfer, swimmer, skater, athlete, student, guest, stranger, "
    "intruder, trespasser, burglar, thief, policeman, policewoman, police officer, fireman, folk, individual",
    "bicycle": "bike, cycle, pushbike, push bike, mountain bike, pedal cycle, e bike, ebike",
    "car": "automobile, auto, motorcar, motor car, taxi, taxicab, cab, sedan, suv, hatchback, limousine, police car, "
    "sports car, jeep",
    "motorcycle": "motorbike, motor bike, motor cycle, scooter, motor scooter, moped",
    "airplane": "plane, aeroplane, aircraft, airliner, jet, jumbo jet, jetliner",
    "bus": "busses, coach, coaches, minibus, omnibus, double decker, school bus",
    "train": "locomotive, tram, streetcar, railcar, subway train, metro train",
    "truck": "lorry, pickup, pickup truck, pick up truck, fire truck, fire engine, dump truck, garbage truck, "
    "delivery truck, tow truck",
    "boat": "ship, ferry, yacht, vessel, canoe, kayak, sailboat, sailing boat, motorboat, rowboat, dinghy",
    "traffic light": "traffic signal, stoplight, stop light, signal light",
    "fire hydrant": "hydrant, fireplug",
    "stop sign": "traffic sign, road sign",
    "bench": "park bench",
    "bird": "pigeon, seagull, gull, duck, goose, geese, swan, chicken, hen, crow, sparrow, parrot, dove, eagle",
    "cat": "kitten, kitty, tomcat",
    "dog": "puppy, doggy, hound",
    "horse": "pony, foal, stallion, mare",
    "sheep": "lamb, ram, ewe",
    "cow": "cattle, bull, ox, calf",
    "bear": "polar bear, grizzly, grizzly bear, brown bear, black bear",
    "backpack": "rucksack, knapsack, back pack, school bag",
    "umbrella": "parasol, brolly",
    "handbag": "purse, hand bag, tote, tote bag",
    "tie": "necktie, bow tie",
    "suitcase": "trolley case, travel case",
    "skis": "ski, pair of skis",
    "sports ball": "ball, football, soccer ball, basketball, volleyball, tennis ball, baseball, golf ball",
    "baseball glove": "baseball mitt, catcher's mitt",
    "skateboard": "longboard, skate board",
    "surfboard": "surf board",
    "tennis racket": "racket, racquet, tennis racquet, badminton racket",
    "bottle": "water bottle, wine bottle, beer bottle, flask",
    "wine glass": "wineglass, drinking glass, glass of wine, champagne glass, goblet",
    "cup": "mug, teacup, tea cup, coffee cup, paper cup, tumbler",
    "knife": "kitchen knife",
    "spoon": "teaspoon, tablespoon, ladle",
    "bowl": "salad bowl, soup bowl",
    "sandwich": "burger, hamburger, toast, panini",
    "orange": "tangerine, mandarin",
    "hot dog": "hotdog",
    "donut": "doughnut",
    "cake": "birthday cake, cupcake, pie",
    "chair": "armchair, arm chair, stool, office chair",
    "couch": "sofa, settee, loveseat",
    "potted plant": "plant, houseplant, house plant, pot plant, flowerpot, flower pot",
    "dining table": "table, desk, kitchen table, coffee table",
    "toilet": "loo, lavatory, wc",
    "tv": "television, tv set, television set, telly, monitor, screen, computer monitor, tv screen",
    "laptop": "notebook computer, laptop computer, computer, macbook",
    "mouse": "computer mouse, computer mice",
    "remote": "remote control, remote controller, tv remote",
    "cell phone": "cellphone, mobile, mobile phone, phone, smartphone, smart phone, telephone, iphone, cellular phone, "
    "handset",
    "microwave": "microwave oven",
    "oven": "stove, cooker",
    "sink": "washbasin, wash basin, basin",
    "refrigerator": "fridge, freezer",
    "book": "paperback, textbook",
    "clock": "wall clock, alarm clock",
    "teddy bear": "teddy, stuffed animal, stuffed toy, plush toy, stuffed bear",
    "hair drier": "hair dryer, hairdryer, hairdrier, blow dryer",
    "toothbrush": "tooth brush",
}
"""Class to its other names, separated by commas; plurals are made from each."""

_VEHICLES = "car, bus, truck, motorcycle, bicycle, train, boat, airplane"
_SPORTS = (
    "frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket"
)
_FOOD = "banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake"
_TABLEWARE = "bottle, wine glass, cup, fork, knife, spoon, bowl"
_APPLIANCES = "microwave, oven, toaster, refrigerator"

GROUPS: dict[str, str] = {
    "vehicle, transport, transportation, means of transport": _VEHICLES,
    "traffic, road vehicle, road user, land vehicle": "car, bus, truck, motorcycle, bicycle",
    "motor vehicle, motorised vehicle, motorized vehicle": "car, bus, truck, motorcycle",
    "two wheeler": "bicycle, motorcycle",
    "van, minivan": "car, truck",
    "cyclist, bicyclist, bike rider": "person, bicycle",
    "motorcyclist, biker": "person, motorcycle",
    "animal, creature, beast": "bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe",
    "mammal": "cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe",
    "pet": "cat, dog",
    "livestock, farm animal": "horse, sheep, cow",
    "wildlife, wild animal": "bird, elephant, bear, zebra, giraffe",
    "furniture, piece of furniture, pieces of furniture": "chair, couch, bed, dining table, bench",
    "seat, seating": "chair, couch, bench",
    "food, foodstuff, meal, snack": _FOOD,
    "fruit": "banana, apple, orange",
    "vegetable, veggie": "broccoli, carrot",
    "electronics, electronic device, electronic item, electronic, device, gadget": (
        "tv, laptop, mouse, remote, keyboard, cell phone"
    ),
    "appliance, household appliance, kitchen appliance": _APPLIANCES,
    "kitchen, kitchen item, kitchen object, kitchen equipment": f"{_TABLEWARE}, {_APPLIANCES}, sink",
    "kitchenware, tableware, dish, crockery": _TABLEWARE,
    "kitchen utensil, utensil, cutlery, silverware": "fork, knife, spoon",
    "drink, beverage": "bottle, wine glass, cup",
    "sports, sport, sports equipment, sports gear, sports item, sporting goods": _SPORTS,
    "luggage, baggage, piece of luggage, pieces of luggage, bag": "backpack, handbag, suitcase",
    "accessory": "backpack, umbrella, handbag, tie, suitcase",
    "bathroom item": "toilet, sink, hair drier, toothbrush",
    "toy": "teddy bear, kite, frisbee",
    "street furniture": "traffic light, fire hydrant, stop sign, parking meter, bench",
}
"""Names of a group, separated by commas, to its classes."""

NOT_MEANT = (
    "bus stop, bus station, bus lane, train station, train track, train tracks, car park, car parks, car wash, "
    "car door, car seat, bike lane, bike path, bicycle lane, boat house, bear in mind, dog house, bird house, "
    "cat walk, catwalk, bed room, bath room, tie up, book shelf, phone number, phone call, table tennis, light bulb, "
    "horse power, mouse pad, mouse trap, cup board, person hour, house cat's, screen shot, table top, ball room, "
    "orange light, in the kitchen, at the kitchen, of the kitchen, a kitchen, in my kitchen, in our kitchen, "
    "in traffic, in the traffic, train of thought, the plane of, remote location, remote area, remote site"
)
"""Phrases that hold a class's name and mean something else."""
