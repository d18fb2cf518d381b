//! Task 20: what people need, where they go for it and what they take there.

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, RngExt};

use super::BabiStory;
use super::world::{GO, TAKE, pick};

const PEOPLE: [&str; 4] = ["Sumit", "Yann", "Jason", "Antoine"];

struct Motive {
    state: &'static str,
    room: &'static str,
    thing: &'static str,
}

const MOTIVES: [Motive; 4] = [
    Motive { state: "tired", room: "bedroom", thing: "pajamas" },
    Motive { state: "thirsty", room: "kitchen", thing: "milk" },
    Motive { state: "hungry", room: "kitchen", thing: "apple" },
    Motive { state: "bored", room: "garden", thing: "football" },
];

/// Everybody is in a state, goes where it leads and takes what is for it, unless another has taken it
/// before; asked is after each of the three. The one fact is the sentence that tells the state.
pub(super) fn motivations(rng: &mut impl Rng) -> BabiStory {
    let motives = PEOPLE.map(|_| MOTIVES.choose(rng).expect("four motives"));
    // Each person three times: who is next to do something.
    let mut turns: Vec<usize> = (0..3 * PEOPLE.len()).map(|turn| turn % PEOPLE.len()).collect();
    turns.shuffle(rng);

    let mut story = BabiStory::default();
    let mut done = [0; PEOPLE.len()];
    let mut told = [0; PEOPLE.len()];
    let mut taken: Vec<&str> = Vec::new();
    for person in turns {
        let (name, Motive { state, room, thing }) = (PEOPLE[person], motives[person]);
        let asked = name.to_lowercase();
        match done[person] {
            0 => {
                told[person] = story.tell(&format!("{name} is {state}"));
                story.ask(&format!("Where will {asked} go"), *room, vec![told[person]]);
            }
            1 => {
                story.tell(&format!("{name} {} the {room}", pick(rng, &GO)));
                story.ask(&format!("Why did {asked} go to the {room}"), *state, vec![told[person]]);
            }
            _ if taken.contains(thing) => {}
            _ => {
                let there = if rng.random() { " there" } else { "" };
                story.tell(&format!("{name} {} the {thing}{there}", pick(rng, &TAKE)));
                story.ask(&format!("Why did {asked} get the {thing}"), *state, vec![told[person]]);
                taken.push(thing);
            }
        }
        done[person] += 1;
    }
    story
}
