//! Tasks 1 to 3: people walk through a house and carry things about.

use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};

use super::BabiStory;

pub(super) const PEOPLE: [&str; 4] = ["Mary", "John", "Daniel", "Sandra"];
pub(super) const ROOMS: [&str; 6] = ["bathroom", "hallway", "kitchen", "garden", "office", "bedroom"];
const THINGS: [&str; 3] = ["football", "milk", "apple"];
pub(super) const GO: [&str; 5] = ["moved to", "went to", "journeyed to", "travelled to", "went back to"];
pub(super) const TAKE: [&str; 4] = ["got", "grabbed", "picked up", "took"];
const LEAVE: [&str; 4] = ["dropped", "discarded", "left", "put down"];

/// Somebody came into a room; the sentence that says so.
#[derive(Clone, Copy)]
struct Arrival {
    room: usize,
    line: usize,
}

/// A thing in somebody's hands.
#[derive(Clone, Copy)]
struct Held {
    by: usize,
    /// The sentence that says it was taken.
    line: usize,
    /// Where in the thing's way the taking is.
    since: usize,
}

#[derive(Default)]
struct Thing {
    held: Option<Held>,
    /// Who left it last, and the sentence that says so; nothing while it is held.
    left: Option<(Held, usize)>,
    /// The rooms it was in, as far as told, with the sentences by which it got there and was held.
    way: Vec<Stop>,
}

#[derive(Clone, Copy)]
struct Stop {
    arrival: Arrival,
    /// Who carried it in, and the sentence of the taking; nothing where it was found.
    carried: Option<Held>,
    /// Whether it was let go here.
    left_here: bool,
}

/// What has been told so far: the state of the house as a reader can know it.
struct World {
    story: BabiStory,
    people: [Option<Arrival>; PEOPLE.len()],
    things: [Thing; THINGS.len()],
}

impl World {
    fn new() -> Self {
        Self { story: BabiStory::default(), people: Default::default(), things: Default::default() }
    }

    /// Somebody goes to another room, and what they hold comes along.
    fn walk(&mut self, rng: &mut impl Rng) {
        let person = rng.random_range(0..PEOPLE.len());
        let here = self.people[person].map(|at| at.room);
        let room = loop {
            let room = rng.random_range(0..ROOMS.len());
            if Some(room) != here {
                break room;
            }
        };
        let line = self.story.tell(&format!("{} {} the {}", PEOPLE[person], pick(rng, &GO), ROOMS[room]));
        let arrival = Arrival { room, line };
        self.people[person] = Some(arrival);
        for thing in &mut self.things {
            if let Some(held) = thing.held.filter(|held| held.by == person) {
                thing.way.push(Stop { arrival, carried: Some(held), left_here: false });
            }
        }
    }

    /// Somebody takes or leaves a thing, where that is possible: what nobody holds can be taken by
    /// whoever is known to be where it is; what was never seen can be found anywhere.
    fn handle(&mut self, rng: &mut impl Rng) -> bool {
        let mut possible = Vec::new();
        for (person, arrival) in self.people.iter().enumerate() {
            let Some(arrival) = *arrival else { continue };
            for (thing, state) in self.things.iter().enumerate() {
                match (state.held, state.way.last()) {
                    (Some(held), _) if held.by == person => possible.push((person, thing, arrival)),
                    (Some(_), _) => {}
                    (None, Some(stop)) if stop.arrival.room != arrival.room => {}
                    (None, _) => possible.push((person, thing, arrival)),
                }
            }
        }
        let Some(&(person, thing, arrival)) = possible.choose(rng) else { return false };
        let there = if rng.random() { " there" } else { "" };
        let held = self.things[thing].held;
        let leaves = held.is_some();
        let verb = pick(rng, if leaves { &LEAVE } else { &TAKE });
        let line = self.story.tell(&format!("{} {verb} the {}{there}", PEOPLE[person], THINGS[thing]));
        let state = &mut self.things[thing];
        if let Some(held) = held {
            (state.held, state.left) = (None, Some((held, line)));
            if let Some(stop) = state.way.last_mut() {
                stop.left_here = true;
            }
        } else {
            if state.way.is_empty() {
                state.way.push(Stop { arrival, carried: None, left_here: false });
            }
            (state.held, state.left) = (Some(Held { by: person, line, since: state.way.len() - 1 }), None);
        }
        true
    }

    fn happen(&mut self, rng: &mut impl Rng) {
        if rng.random_bool(0.5) || !self.handle(rng) {
            self.walk(rng);
        }
    }

    /// Where a thing is, of those for which the answer would be another one without either fact: it
    /// was carried away from where it was taken, or left by its carrier, who is elsewhere now.
    fn where_is(&mut self, rng: &mut impl Rng) -> bool {
        let mut possible = Vec::new();
        for (thing, state) in self.things.iter().enumerate() {
            let Some(stop) = state.way.last() else { continue };
            match (state.held, state.left) {
                (Some(held), _) => {
                    let taken = state.way[held.since].arrival.room;
                    if taken != stop.arrival.room {
                        possible.push((thing, stop.arrival.room, vec![held.line, stop.arrival.line]));
                    }
                }
                (None, Some((held, left))) => {
                    let carried_here = stop.carried.is_some_and(|carried| carried.line == held.line);
                    let now = self.people[held.by].expect("a carrier has been somewhere").room;
                    if carried_here && now != stop.arrival.room {
                        possible.push((thing, stop.arrival.room, vec![left, stop.arrival.line]));
                    }
                }
                (None, None) => {}
            }
        }
        let Some((thing, room, facts)) = possible.choose(rng).cloned() else { return false };
        self.story.ask(&format!("Where is the {}", THINGS[thing]), ROOMS[room], facts);
        true
    }

    /// Where a thing was before a room it was in once, where it was carried through both by one
    /// person who had taken it before: three sentences, none of which can be missing.
    fn where_was(&mut self, rng: &mut impl Rng) -> bool {
        let mut possible = Vec::new();
        for (thing, state) in self.things.iter().enumerate() {
            for pair in state.way.windows(2) {
                let (Some(first), Some(second)) = (pair[0].carried, pair[1].carried) else { continue };
                let (from, to) = (pair[0].arrival, pair[1].arrival);
                let visits = state.way.iter().filter(|stop| stop.arrival.room == to.room).count();
                if first.line == second.line && visits == 1 && !pair[1].left_here {
                    possible.push((thing, from.room, to.room, vec![second.line, from.line, to.line]));
                }
            }
        }
        let Some((thing, from, to, facts)) = possible.choose(rng).cloned() else { return false };
        self.story.ask(&format!("Where was the {} before the {}", THINGS[thing], ROOMS[to]), ROOMS[from], facts);
        true
    }
}

pub(super) fn pick<'a>(rng: &mut impl Rng, verbs: &[&'a str]) -> &'a str {
    verbs.choose(rng).expect("at least one verb")
}

/// Two moves, a question, five times.
pub(super) fn one_fact(rng: &mut impl Rng) -> BabiStory {
    let mut world = World::new();
    for _ in 0..5 {
        world.walk(rng);
        world.walk(rng);
        let known: Vec<usize> = (0..PEOPLE.len()).filter(|&p| world.people[p].is_some()).collect();
        let person = *known.choose(rng).expect("somebody has moved");
        let Arrival { room, line } = world.people[person].expect("known");
        world.story.ask(&format!("Where is {}", PEOPLE[person]), ROOMS[room], vec![line]);
    }
    world.story
}

/// Things that happen, then questions as soon as one can be asked, five times.
pub(super) fn two_facts(rng: &mut impl Rng) -> BabiStory {
    carried(rng, [4, 2], World::where_is)
}

/// The same with longer stretches between the questions.
pub(super) fn three_facts(rng: &mut impl Rng) -> BabiStory {
    carried(rng, [10, 4], World::where_was)
}

/// The published memory: what a story holds, so that no fact is forgotten.
const LONGEST: usize = 50;

/// A story that grows longer than [`LONGEST`] before its five questions are asked is told anew: rooms
/// visited twice can no longer be asked for, and waiting does not help.
fn carried<R: Rng>(rng: &mut R, [first, then]: [usize; 2], ask: fn(&mut World, &mut R) -> bool) -> BabiStory {
    loop {
        let mut world = World::new();
        let mut asked = 0;
        let mut quiet = first;
        while asked < 5 && world.story.lines.len() - asked < LONGEST {
            world.happen(rng);
            quiet = quiet.saturating_sub(1);
            if quiet == 0 && ask(&mut world, rng) {
                (asked, quiet) = (asked + 1, then);
            }
        }
        if asked == 5 {
            return world.story;
        }
    }
}
