//! What is printed.

use std::time::Duration;

use crate::contestants::Life;

/// What was measured of one contestant.
pub struct Times {
    name: &'static str,
    lives: Vec<Life>,
    wall: Duration,
}

impl Times {
    pub fn new(name: &'static str) -> Self {
        Times { name, lives: Vec::new(), wall: Duration::ZERO }
    }

    pub fn add(&mut self, lives: Vec<Life>, wall: Duration) {
        self.lives.extend(lives);
        self.wall += wall;
    }

    /// The time that so many percent of the lives stayed below; none where it was not measured.
    fn percentile(&self, percent: usize, part: impl Fn(&Life) -> Option<Duration>) -> Option<Duration> {
        let mut times: Vec<Duration> = self.lives.iter().filter_map(part).collect();
        times.sort();
        times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied()
    }
}

type Part = fn(&Life) -> Option<Duration>;

const PARTS: [(&str, Part); 4] = [
    ("create", |life| life.create),
    ("run", |life| life.run),
    ("destroy", |life| life.destroy),
    ("life", |life| Some(life.whole)),
];

/// Prints p50 and p95 of each part, and lives in a second.
pub fn print(title: &str, all: &[Times]) {
    println!("\n{title}; p50 / p95 in ms");
    println!("{:18} {:>15} {:>15} {:>15} {:>15} {:>8}", "", "create", "run", "destroy", "life", "lives/s");
    for times in all {
        print!("{:18}", times.name);
        for (_, part) in PARTS {
            match (times.percentile(50, part), times.percentile(95, part)) {
                (Some(p50), Some(p95)) => print!(" {:>7.2} /{:>6.2}", millis(p50), millis(p95)),
                _ => print!(" {:>15}", "-"),
            }
        }
        println!(" {:>8.1}", times.lives.len() as f64 / times.wall.as_secs_f64());
    }
}

/// Prints the ratios of the first contestant's p50 to the others', and beside crun what they should be.
pub fn goals(all: &[Times]) {
    let Some((garden, others)) = all.split_first() else { return };
    println!("\n{} as a multiple of others (one client, p50)", garden.name);
    for other in others {
        print!("{:18}", other.name);
        for (name, part) in PARTS {
            let whole: Part = |life| Some(life.whole);
            // Whoever knows only the whole is compared with as a whole.
            let theirs = other.percentile(50, part).or_else(|| other.percentile(50, whole));
            if let (Some(ours), Some(theirs)) = (garden.percentile(50, part), theirs) {
                print!("  {name} {:.2}", ours.as_secs_f64() / theirs.as_secs_f64());
            }
        }
        println!("{}", if other.name == "crun run" { "  (goal: 0.25, 0.10, 0.15)" } else { "" });
    }
}

/// Prints how many lives the first contestant has in the time of one of crun's in the same shape.
pub fn crowd_goal(all: &[Times]) {
    let per_second = |times: &Times| times.lives.len() as f64 / times.wall.as_secs_f64();
    let Some((garden, others)) = all.split_first() else { return };
    for other in others.iter().filter(|other| other.name == "crun, three steps") {
        let ratio = per_second(garden) / per_second(other);
        println!(
            "{} at once, lives a second as a multiple of {}: {ratio:.2}  (goal: 2)",
            garden.name, other.name
        );
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_taken_from_what_was_measured() {
        let mut times = Times::new("x");
        let life = |n| Life { create: None, run: None, destroy: None, whole: Duration::from_millis(n) };
        times.add((1..=100).rev().map(life).collect(), Duration::ZERO);
        assert_eq!(times.percentile(50, |life| Some(life.whole)), Some(Duration::from_millis(51)));
        assert_eq!(times.percentile(95, |life| Some(life.whole)), Some(Duration::from_millis(96)));
        assert_eq!(times.percentile(50, |life| life.create), None);
    }
}
