//! Tasks 15, 16 and 19: kinds of animals, and a map.

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, RngExt};

use super::BabiStory;
use super::world::ROOMS;

const NAMES: [&str; 6] = ["Gertrude", "Winona", "Emily", "Jessica", "Lily", "Bernhard"];
/// One and many.
const PREY: [[&str; 2]; 4] = [["mouse", "mice"], ["sheep", "sheep"], ["wolf", "wolves"], ["cat", "cats"]];
const KINDS: [&str; 4] = ["lion", "swan", "frog", "rhino"];
const COLOURS: [&str; 4] = ["white", "gray", "green", "yellow"];

/// Task 15: what kinds fear, who is of which kind; asked is what somebody fears.
pub(super) fn deduction(rng: &mut impl Rng) -> BabiStory {
    let fears: [usize; PREY.len()] = std::array::from_fn(|kind| (kind + rng.random_range(1..PREY.len())) % PREY.len());
    let mut names = NAMES;
    names.shuffle(rng);
    let kinds: [usize; 4] = std::array::from_fn(|_| rng.random_range(0..PREY.len()));

    let mut story = BabiStory::default();
    let (mut of_kind, mut of_name) = ([0; PREY.len()], [0; 4]);
    let mut order: Vec<usize> = (0..PREY.len() + 4).collect();
    order.shuffle(rng);
    for which in order {
        if let Some(name) = which.checked_sub(PREY.len()) {
            of_name[name] = story.tell(&format!("{} is a {}", names[name], PREY[kinds[name]][0]));
        } else {
            let [feared, many] = [PREY[fears[which]][1], PREY[which][1]];
            of_kind[which] = story.tell(&format!("{} are afraid of {feared}", capital(many)));
        }
    }
    for name in 0..4 {
        let kind = kinds[name];
        let question = format!("What is {} afraid of", names[name]);
        story.ask(&question, PREY[fears[kind]][0], vec![of_name[name], of_kind[kind]]);
    }
    story
}

/// Task 16: five animals, the colours of four; asked is the colour of the fifth, which is that of
/// the one other of its kind.
pub(super) fn induction(rng: &mut impl Rng) -> BabiStory {
    let mut names = NAMES;
    names.shuffle(rng);
    let mut kinds: Vec<usize> = (0..KINDS.len()).collect();
    kinds.shuffle(rng);
    let colours: [usize; KINDS.len()] = std::array::from_fn(|_| rng.random_range(0..COLOURS.len()));
    // Animal 0 is asked about and 1 is its witness; the others are of other kinds.
    let of: [usize; 5] =
        std::array::from_fn(|animal| if animal < 2 { kinds[0] } else { kinds[rng.random_range(1..4)] });

    let mut story = BabiStory::default();
    let (mut kind_told, mut colour_told) = ([0; 5], [0; 5]);
    let mut order: Vec<usize> = (0..9).collect();
    order.shuffle(rng);
    for which in order {
        if which < 5 {
            kind_told[which] = story.tell(&format!("{} is a {}", names[which], KINDS[of[which]]));
        } else {
            let animal = which - 4;
            colour_told[animal] = story.tell(&format!("{} is {}", names[animal], COLOURS[colours[of[animal]]]));
        }
    }
    let facts = vec![kind_told[0], kind_told[1], colour_told[1]];
    story.ask(&format!("What color is {}", names[0]), COLOURS[colours[of[0]]], facts);
    story
}

/// Directions as (word, initial, step).
const DIRECTIONS: [(&str, &str, [i32; 2]); 4] =
    [("north", "n", [0, 1]), ("east", "e", [1, 0]), ("south", "s", [0, -1]), ("west", "w", [-1, 0])];

/// Task 19: six rooms on a grid, joined by five neighbourhoods without a ring, so that there is one
/// way; asked is a way of two steps.
pub(super) fn path_finding(rng: &mut impl Rng) -> BabiStory {
    let mut rooms = ROOMS;
    rooms.shuffle(rng);
    // places[room], and for every room but the first the one it was joined to and in which direction.
    let mut places = vec![[0, 0]];
    let mut joined: Vec<(usize, usize, usize)> = Vec::new();
    while places.len() < rooms.len() {
        let to = rng.random_range(0..places.len());
        let direction = rng.random_range(0..DIRECTIONS.len());
        let step = DIRECTIONS[direction].2;
        let place = [places[to][0] + step[0], places[to][1] + step[1]];
        if !places.contains(&place) {
            joined.push((places.len(), to, direction));
            places.push(place);
        }
    }
    joined.shuffle(rng);
    let mut story = BabiStory::default();
    // ways[from] has (to, direction, line).
    let mut ways = vec![Vec::new(); rooms.len()];
    for (room, to, direction) in joined {
        let back = (direction + 2) % DIRECTIONS.len();
        let (a, b, word) = if rng.random() { (room, to, direction) } else { (to, room, back) };
        let line = story.tell(&format!("The {} is {} of the {}", rooms[a], DIRECTIONS[word].0, rooms[b]));
        ways[to].push((room, direction, line));
        ways[room].push((to, back, line));
    }
    let mut routes = Vec::new();
    for from in 0..rooms.len() {
        for &(middle, first, line) in &ways[from] {
            for &(to, second, next) in ways[middle].iter().filter(|(to, ..)| *to != from) {
                routes.push((from, to, [first, second], vec![line, next]));
            }
        }
    }
    let (from, to, steps, facts) = routes.choose(rng).expect("six joined rooms have ways of two steps").clone();
    let answer = steps.map(|direction| DIRECTIONS[direction].1).join(",");
    story.ask(&format!("How do you go from the {} to the {}", rooms[from], rooms[to]), answer, facts);
    story
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
