use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::*;

/// Answers a question by replaying what was told, from the words alone.
fn solve(told: &[Vec<String>], question: &[String]) -> Option<String> {
    let told: Vec<Vec<&str>> = told.iter().map(|s| s.iter().map(String::as_str).collect()).collect();
    let question: Vec<&str> = question.iter().map(String::as_str).collect();
    match question[..] {
        ["Where", "is", person] => House::after(&told).people.get(person).map(|room| room.to_string()),
        ["Where", "is", "the", thing] => House::after(&told).place(thing).map(str::to_owned),
        ["Where", "was", "the", thing, "before", "the", room] => {
            let house = House::after(&told);
            let way = house.ways.get(thing)?;
            let visit = way.iter().rposition(|r| *r == room)?;
            visit.checked_sub(1).map(|before| way[before].to_owned())
        }
        ["What", "is", name, "afraid", "of"] => {
            let kind = kind(&told, name)?;
            let many = |one: &str| match one {
                "mouse" => "Mice",
                "sheep" => "Sheep",
                "wolf" => "Wolves",
                "cat" => "Cats",
                other => panic!("{other}"),
            };
            let feared = told.iter().find(|s| s[0] == many(kind) && s[1] == "are").map(|s| s[4])?;
            ["mouse", "sheep", "wolf", "cat"].into_iter().find(|k| many(k).to_lowercase() == feared).map(str::to_owned)
        }
        ["What", "color", "is", name] => {
            let kind = kind(&told, name)?;
            let others: Vec<&str> = told.iter().filter(|s| s[2] == "a" && s[3] == kind).map(|s| s[0]).collect();
            told.iter().find(|s| s.len() == 3 && others.contains(&s[0])).map(|s| s[2].to_owned())
        }
        ["How", "do", "you", "go", "from", "the", from, "to", "the", to] => {
            let back = BTreeMap::from([("north", "south"), ("south", "north"), ("east", "west"), ("west", "east")]);
            let mut edges = Vec::new();
            for s in &told {
                // The a is north of the b: from b go north.
                edges.push((s[6], s[1], s[3]));
                edges.push((s[1], s[6], back[s[3]]));
            }
            let mut seen = BTreeSet::from([from]);
            let mut ways = vec![(from, Vec::new())];
            while !ways.is_empty() {
                if let Some((_, steps)) = ways.iter().find(|(room, _)| *room == to) {
                    return Some(steps.join(","));
                }
                let mut next = Vec::new();
                for (room, steps) in &ways {
                    for (_, to, direction) in edges.iter().filter(|(a, b, _)| a == room && !seen.contains(b)) {
                        next.push((*to, [steps.as_slice(), &[direction[..1].to_owned()]].concat()));
                    }
                }
                seen.extend(next.iter().map(|(room, _)| *room));
                ways = next;
            }
            None
        }
        ["Where", "will", name, "go"] => match state(&told, name)? {
            "tired" => Some("bedroom".into()),
            "thirsty" | "hungry" => Some("kitchen".into()),
            "bored" => Some("garden".into()),
            other => panic!("{other}"),
        },
        ["Why", "did", name, "go" | "get", ..] => state(&told, name).map(str::to_owned),
        _ => panic!("no solver for {question:?}"),
    }
}

fn kind<'a>(told: &[Vec<&'a str>], name: &str) -> Option<&'a str> {
    told.iter().find(|s| s[0] == name && s[2] == "a").map(|s| s[3])
}

fn state<'a>(told: &[Vec<&'a str>], name: &str) -> Option<&'a str> {
    told.iter().find(|s| s[0].to_lowercase() == name && s[1] == "is").map(|s| s[2])
}

#[derive(Default)]
struct House<'a> {
    people: BTreeMap<&'a str, &'a str>,
    holders: BTreeMap<&'a str, &'a str>,
    ways: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> House<'a> {
    fn after(told: &[Vec<&'a str>]) -> Self {
        let mut house = Self::default();
        for s in told {
            let person = s[0];
            if let Some(to) = s.iter().position(|w| *w == "to") {
                let room = s[to + 2];
                house.people.insert(person, room);
                let carried: Vec<&str> = house.holders.iter().filter(|(_, p)| **p == person).map(|(t, _)| *t).collect();
                carried.into_iter().for_each(|thing| house.arrives(thing, room));
                continue;
            }
            let thing = s[s.iter().position(|w| *w == "the").unwrap() + 1];
            if ["got", "grabbed", "picked", "took"].contains(&s[1]) {
                house.holders.insert(thing, person);
            } else {
                house.holders.remove(thing);
            }
            if let Some(room) = house.people.get(person).copied() {
                house.arrives(thing, room);
            }
        }
        house
    }
    fn arrives(&mut self, thing: &'a str, room: &'a str) {
        let way = self.ways.entry(thing).or_default();
        if way.last() != Some(&room) {
            way.push(room);
        }
    }
    fn place(&self, thing: &str) -> Option<&'a str> {
        self.ways.get(thing).and_then(|way| way.last()).copied()
    }
}

/// The lines told before a question, the question, its answer, and the facts as places among the lines.
type Asked = (Vec<Vec<String>>, Vec<String>, String, Vec<usize>);

/// Every question of some stories.
fn questions(stories: &[BabiStory]) -> Vec<Asked> {
    let mut all = Vec::new();
    for story in stories {
        let (mut told, mut place) = (Vec::new(), Vec::new());
        for line in &story.lines {
            place.push(told.len());
            match line {
                BabiLine::Sentence(words) => told.push(words.clone()),
                BabiLine::Question { question, answer, facts } => {
                    let facts = facts.iter().map(|&line| place[line]).collect();
                    all.push((told.clone(), question.clone(), answer.clone(), facts));
                }
            }
        }
    }
    all
}

#[test]
fn every_answer_is_the_one_that_a_replay_of_the_story_gives() {
    for task in BabiTask::ALL {
        for (told, question, answer, _) in questions(&task.train(1, 500)) {
            assert_eq!(solve(&told, &question).as_ref(), Some(&answer), "{task:?}: {told:#?} {question:?}");
        }
    }
}

#[test]
fn the_supporting_facts_suffice_and_none_of_them_can_be_missing() {
    let counts = [(1, 1), (2, 2), (3, 3), (15, 2), (16, 3), (19, 2), (20, 1)];
    for (number, count) in counts {
        let task = BabiTask::from_number(number).unwrap();
        for (told, question, answer, facts) in questions(&task.train(2, 500)) {
            assert_eq!(facts.iter().collect::<BTreeSet<_>>().len(), count, "{task:?}");
            let mut ordered = facts.clone();
            ordered.sort_unstable();
            let alone: Vec<_> = ordered.iter().map(|&i| told[i].clone()).collect();
            assert_eq!(solve(&alone, &question).as_ref(), Some(&answer), "{task:?}: {alone:?} {question:?}");
            for &fact in &facts {
                let mut rest = told.clone();
                let missing = rest.remove(fact);
                let other = solve(&rest, &question);
                assert_ne!(other.as_ref(), Some(&answer), "{task:?}: {told:#?} {question:?} without {missing:?}");
            }
        }
    }
}

#[test]
fn people_go_where_their_state_leads_and_take_what_nobody_has() {
    let motives = BTreeMap::from([
        ("tired", ("bedroom", "pajamas")),
        ("thirsty", ("kitchen", "milk")),
        ("hungry", ("kitchen", "apple")),
        ("bored", ("garden", "football")),
    ]);
    for story in BabiTask::Motivations.train(9, 500) {
        let (mut states, mut been, mut taken) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        for pair in story.lines.chunks(2) {
            let [BabiLine::Sentence(said), BabiLine::Question { question, .. }] = pair else {
                panic!("a question after every sentence: {story}");
            };
            let said: Vec<&str> = said.iter().map(String::as_str).collect();
            assert_eq!(question[2], said[0].to_lowercase(), "asked is about who did something: {story}");
            if let ["is", state] = said[1..] {
                assert!(states.insert(said[0], state).is_none(), "told twice: {story}");
            } else if let Some(room) = said.windows(3).find(|s| s[..2] == ["to", "the"]).map(|s| s[2]) {
                assert_eq!(motives[states[said[0]]].0, room, "{story}");
                been.insert(said[0]);
            } else {
                let thing = said[said.iter().position(|word| *word == "the").unwrap() + 1];
                assert_eq!(motives[states[said[0]]].1, thing, "{story}");
                assert!(been.contains(said[0]), "taken from afar: {story}");
                assert!(taken.insert(thing), "taken twice: {story}");
            }
        }
        assert_eq!((states.len(), been.len()), (4, 4), "{story}");
    }
}

#[test]
fn a_printed_story_reads_back_as_itself() {
    let dir = tempfile::tempdir().unwrap();
    for task in BabiTask::ALL {
        let stories = task.train(3, 50);
        let path = dir.path().join(format!("qa{}_train.txt", task.number()));
        std::fs::write(&path, stories.iter().map(BabiStory::to_string).collect::<String>()).unwrap();
        let read = read_babi(&path).unwrap();
        assert_eq!(read, stories, "{task:?}");
        let vocabulary = BabiVocabulary::of(&stories);
        let [a, b] = [&stories, &read].map(|s| Babi::new(s, &vocabulary).unwrap().examples);
        assert_eq!(a, b);
    }
}

#[test]
fn stories_are_a_function_of_their_seed_and_tests_are_none_of_those_trained_on() {
    for task in BabiTask::ALL {
        let train = task.train(5, 400);
        assert_eq!(train, task.train(5, 400));
        assert_eq!(train[..10], task.train(5, 1000)[..10], "more questions go on where fewer ended");
        assert_ne!(train, task.train(6, 400));
        let seen: BTreeSet<String> = train.iter().map(BabiStory::to_string).collect();
        let shared = task.test(5, 400).iter().filter(|story| seen.contains(&story.to_string())).count();
        assert_eq!(shared, 0, "{task:?}");
        let asked: usize = train.iter().map(BabiStory::questions).sum();
        let last = train.last().map_or(0, BabiStory::questions);
        assert!(asked >= 400 && asked - last < 400, "{task:?}: {asked} questions, the last story has {last}");
    }
}

#[test]
fn answers_are_spread_over_all_that_are_possible() {
    for (task, answers) in BabiTask::ALL.into_iter().zip([6, 6, 6, 4, 4, 12, 7]) {
        let stories = task.train(7, 1000);
        let set = Babi::new(&stories, &BabiVocabulary::of(&stories)).unwrap();
        let different: BTreeSet<i32> = set.examples.iter().map(|e| e.answer).collect();
        assert_eq!(different.len(), answers, "{task:?}");
        assert!(set.chance() < 1.5 / answers as f64, "{task:?}: {}", set.chance());
        assert!(set.sentences() <= 50, "{task:?}: {} sentences", set.sentences());
    }
}

const PUBLISHED: &str = "1 Mary moved to the bathroom.\n2 John went to the hallway.\n3 Where is Mary? \tbathroom\t1\n\
    4 Daniel went back to the hallway.\n5 Where is Daniel? \thallway\t4\n1 Sandra took the milk there.\n\
    2 What is Sandra carrying?\tmilk,football\t\n";

#[test]
fn the_published_format_is_read_with_its_peculiarities() {
    let stories = parse_babi(PUBLISHED, Path::new("qa1.txt")).unwrap();
    assert_eq!(stories.iter().map(|s| s.lines.len()).collect::<Vec<_>>(), [5, 2]);
    let vocabulary = BabiVocabulary::of(&stories);
    let set = Babi::new(&stories, &vocabulary).unwrap();
    let second = &set.examples[1];
    let told: Vec<String> = second.sentences.iter().map(|s| vocabulary.decode(s)).collect();
    assert_eq!(told, ["mary moved to the bathroom", "john went to the hallway", "daniel went back to the hallway"]);
    assert_eq!(vocabulary.decode(&second.question), "where is daniel");
    assert_eq!(vocabulary.decode(&[second.answer, 0, -1]), "hallway · <-1>");
    assert_eq!(second.facts, [2], "line 4 is the third sentence: the question between is none");
    assert_eq!(vocabulary.decode(&[set.examples[2].answer]), "milk,football");
    assert_eq!((set.words(), set.sentences()), (6, 3));
}

#[test]
fn a_batch_holds_the_most_recent_sentences_the_newest_first() {
    let stories = parse_babi(PUBLISHED, Path::new("qa1.txt")).unwrap();
    let set = Babi::new(&stories, &BabiVocabulary::of(&stories)).unwrap();
    let shown = |batch: &BabiBatch, row: usize, age: usize| {
        let from = (row * batch.memory + age) * batch.words;
        set.vocabulary.decode(&batch.stories[from..from + batch.words])
    };
    let batch = set.batch(&[1, 2], 2, 7).unwrap();
    assert_eq!(shown(&batch, 0, 0), "daniel went back to the hallway ·");
    assert_eq!(shown(&batch, 0, 1), "john went to the hallway · ·");
    assert_eq!(shown(&batch, 1, 0), "sandra took the milk there · ·");
    assert_eq!(shown(&batch, 1, 1), "· · · · · · ·");
    assert_eq!(set.vocabulary.decode(&batch.questions[..7]), "where is daniel · · · ·");
    assert_eq!(batch.facts, [vec![0], vec![]]);
    assert_eq!(set.batch(&[0], 1, 6).unwrap().facts, [Vec::<usize>::new()], "a forgotten fact");
    assert_eq!(set.batch(&[0], 2, 6).unwrap().facts, [[1]]);
}

#[test]
fn a_split_keeps_every_example_once() {
    let stories = BabiTask::SingleFact.train(1, 100);
    let set = Babi::new(&stories, &BabiVocabulary::of(&stories)).unwrap();
    let (train, validation) = set.split(0.1, 4).unwrap();
    assert_eq!((train.examples.len(), validation.examples.len()), (90, 10));
    let sorted = |mut examples: Vec<BabiExample>| {
        examples.sort_by(|a, b| (&a.sentences, &a.question).cmp(&(&b.sentences, &b.question)));
        examples
    };
    assert_eq!(sorted([train.examples, validation.examples].concat()), sorted(set.examples.clone()));
    assert_ne!(set.order(1, 0), set.order(1, 1));
    assert_eq!(set.order(1, 0), set.order(1, 0));
    let message = set.split(0.0, 4).unwrap_err().to_string();
    assert!(message.contains("validation = 0") && message.contains("100"), "{message}");
}

#[test]
fn errors_name_the_file_the_line_and_what_would_be_valid() {
    let refused = |text: &str| parse_babi(text, Path::new("qa9.txt")).unwrap_err().to_string();
    let cases = [
        ("1 Mary moved.\nJohn went.\n", "line 2", "`John`", "a line number"),
        ("1 Mary moved.\n\n3 John went.\n", "line 3", "line number 3", "2, or 1"),
        ("2 Mary moved.\n", "line 1", "line number 2", "1, or 1"),
        ("1 Mary moved.\n2 Where is Mary?\t\t1\n", "line 2", "without an answer", "behind the tab"),
        ("1 Mary moved.\n2 Where?\tthere\t2\n", "line 2", "fact `2`", "before line 2"),
        ("1 Mary moved.\n2 Where?\tthere\tx\n", "line 2", "fact `x`", "before line 2"),
        ("1 Mary moved.\n2 Where?\tthere\t1\t9\n", "line 2", "fourth field `9`", "supporting facts"),
        ("1 .\n", "line 1", "no words", "a sentence"),
    ];
    for (text, line, found, expected) in cases {
        let message = refused(text);
        let named = ["qa9.txt", line, found, expected].iter().all(|part| message.contains(part));
        assert!(named, "{message}");
    }
    assert!(read_babi("nowhere.txt").unwrap_err().to_string().contains("nowhere.txt"));
    let message = BabiTask::from_number(4).unwrap_err().to_string();
    assert!(message.contains("task = 4") && message.contains("1, 2, 3, 15, 16, 19, 20"), "{message}");

    let stories = BabiTask::SingleFact.train(1, 5);
    let vocabulary = BabiVocabulary::of(&stories);
    let message = vocabulary.id("zebra").unwrap_err().to_string();
    assert!(message.contains("zebra"), "{message}");
    let set = Babi::new(&stories, &vocabulary).unwrap();
    let message = set.batch(&[0], 10, 3).unwrap_err().to_string();
    assert!(message.contains("words = 3") && message.contains("at least"), "{message}");
    assert!(set.batch(&[0], 0, 9).unwrap_err().to_string().contains("memory = 0"));
    assert!(Babi::new(&[], &vocabulary).unwrap_err().to_string().contains("at least one question"));
}
