//! A model that trains in a cell: what is seen of it, and what the stop button leaves.

mod support;
use support::{Kernel, Output};

const SETUP: &str = "use attention::prelude::*;
let config = TrainConfig {
    steps: 100_000, eval_every: 1, eval_batches: 1, ..TrainConfig::new(\"stopped\", preset(\"baseline\", \"nano\")?)
};
let mut trainer = Trainer::from_config(&config, &Device::flex())?;";

/// Waits for the first sign of life.
async fn begun(kernel: &mut Kernel, id: &str) {
    loop {
        let next = serde_json::to_value(kernel.next(id).await).unwrap();
        assert_ne!(next["execution_state"], "idle", "the cell ended early");
        if !next["data"].is_null() {
            return;
        }
    }
}

#[tokio::test]
async fn the_stop_button_ends_training_after_the_step_and_training_goes_on_from_there() {
    let mut kernel = Kernel::start().await;
    kernel.run(SETUP).await.ok();
    let id = kernel.send("let run = trainer.run()?;").await;
    // Sent with the first one, as \"Run All\" does; the button stops the whole run.
    let behind = kernel.send("let ran = true;").await;
    begun(&mut kernel, &id).await;
    kernel.interrupt().await;
    let stopped = kernel.finish(&id).await.ok();
    assert!(stopped.stdout().contains("stopped after step"), "{stopped:#?}");
    assert_eq!(kernel.finish(&behind).await.status, jupyter_protocol::ReplyStatus::Aborted);
    assert_eq!(kernel.run("run.interrupted && run.history.step() == trainer.history().step()").await.result(), "true");
    assert_eq!(kernel.run("trainer.step()?.step == run.history.step() + 1").await.result(), "true");
    // The optimiser is the same as well: a run that was never stopped has the same losses.
    let twin = "let mut twin = Trainer::from_config(&config, &Device::flex())?.quiet();\n\
                twin.run_until(trainer.history().step())?.history.train_losses() == trainer.history().train_losses()";
    assert_eq!(kernel.run(twin).await.result(), "true");
}

#[tokio::test]
async fn a_loss_curve_grows_in_place_while_a_model_trains() {
    let mut kernel = Kernel::start().await;
    kernel.run(SETUP).await.ok();
    // Long enough for several drawings, whatever the machine.
    let cell = "let begun = std::time::Instant::now();\n\
                while begun.elapsed().as_secs() < 2 { trainer.run_until(trainer.history().step() + 1)?; }\n\
                let trainer_until = trainer.history().step();";
    kernel.run(cell).await.ok();
    let ran = kernel.run("trainer.run_until(trainer_until + trainer_until)?;").await.ok();
    let mut drawings = ran.outputs.iter().map(|output| match output {
        Output::Bundle(kind, id, data) => (*kind, id, data),
        other => panic!("{other:#?}"),
    });
    let (kind, name, _) = drawings.next().expect("a first drawing");
    assert_eq!(kind, "display");
    let rest: Vec<_> = drawings.collect();
    assert!(rest.len() >= 2, "{} drawings", rest.len() + 1);
    assert!(rest.iter().all(|(kind, id, _)| *kind == "update" && id == &name));
    let last = rest.last().unwrap().2;
    assert!(last["image/svg+xml"].as_str().is_some_and(|svg| svg.contains("validation")), "{last}");
    assert!(last["text/plain"].as_str().is_some_and(|line| line.contains("0:00 left")), "{last}");
}
