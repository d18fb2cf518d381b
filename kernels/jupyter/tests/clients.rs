//! What one client does is no matter to the others, and whoever asks is answered.

mod support;
use jupyter_protocol::{
    CommId, CommOpen, ConnectionInfo, ExecuteRequest, ExpressionResult, InterruptRequest, JupyterMessage,
    JupyterMessageContent as Content, KernelInfoRequest, ReplyStatus, ShutdownRequest, UnknownMessage,
};
use jupyter_zmq_client as zmq;
use serde_json::{Value, json};
use std::time::Duration;
use support::Kernel;
use tokio::time::timeout;
use zeromq::{SocketRecv, SocketSend};

/// A kernel, and what another client must know to reach it.
async fn start() -> (Kernel, ConnectionInfo) {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("connection.json");
    let script = format!("cp '{{connection_file}}' '{}' && exec \"$0\" \"$@\"", copy.display());
    let shell = ["sh".to_string(), "-c".to_string(), script];
    let kernel = Kernel::start_by(|spec| drop(spec.argv.splice(0..0, shell))).await;
    let info = serde_json::from_slice(&std::fs::read(&copy).unwrap()).unwrap();
    (kernel, info)
}

/// A request as a client may send it that does not use the protocol library.
fn request(kind: &str, content: Value) -> JupyterMessage {
    UnknownMessage { msg_type: kind.into(), content }.into()
}

/// The next reply as it came: a refusal need not be what the protocol library takes for a reply of its kind.
async fn reply(socket: &mut zmq::Connection<impl SocketRecv>) -> (String, Value) {
    let frames = timeout(Duration::from_secs(20), socket.socket.recv()).await.expect("a reply in time").unwrap();
    let raw = zmq::RawMessage::from_multipart(frames, &socket.mac).unwrap();
    let header: Value = serde_json::from_slice(&raw.jparts[0]).unwrap();
    (header["msg_type"].as_str().unwrap().into(), serde_json::from_slice(&raw.jparts[3]).unwrap())
}

#[tokio::test]
async fn a_control_client_that_leaves_or_makes_no_sense_costs_no_variable() {
    let (mut kernel, info) = start().await;
    kernel.run("let kept = 1;").await.ok();
    for _ in 0..5 {
        // It is gone before all of it is answered.
        let mut control = zmq::create_client_control_connection(&info, "leaves").await.unwrap();
        for _ in 0..100 {
            control.send(KernelInfoRequest {}.into()).await.unwrap();
        }
        control.read().await.unwrap();
    }
    let stranger = ConnectionInfo { key: "another".into(), ..info.clone() };
    let mut stranger = zmq::create_client_control_connection(&stranger, "stranger").await.unwrap();
    stranger.send(ShutdownRequest { restart: false }.into()).await.unwrap();
    let mut control = zmq::create_client_control_connection(&info, "stays").await.unwrap();
    control.send(request("shutdown_request", json!({}))).await.unwrap();
    let (kind, refused) = reply(&mut control).await;
    assert_eq!((kind.as_str(), &refused["status"]), ("shutdown_reply", &json!("error")));
    assert!(refused["evalue"].as_str().unwrap().contains("`restart`"), "{refused}");
    control.send(InterruptRequest {}.into()).await.unwrap();
    assert_eq!(reply(&mut control).await, ("interrupt_reply".into(), json!({ "status": "ok" })));
    assert_eq!(kernel.run("kept").await.result(), "1");
}

#[tokio::test]
async fn a_client_that_resets_its_heartbeat_does_not_end_that_of_the_others() {
    let (_kernel, info) = start().await;
    let mut resets = zmq::create_client_heartbeat_connection(&info).await.unwrap();
    resets.socket.send("ping".into()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    // Closing a connection on which something lies unread resets it.
    drop(resets);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let beats = async { zmq::create_client_heartbeat_connection(&info).await?.single_heartbeat().await };
    timeout(Duration::from_secs(20), beats).await.expect("the heart beats").unwrap();
}

#[tokio::test]
async fn a_request_that_is_not_understood_is_refused_and_says_what_is_wrong() {
    let (mut kernel, info) = start().await;
    let identity = zmq::peer_identity_for_session("other").unwrap();
    let mut shell = zmq::create_client_shell_connection_with_identity(&info, "other", identity).await.unwrap();
    for (kind, content, answer, why) in [
        ("complete_request", json!({ "code": "x" }), "complete_reply", "missing field `cursor_pos`"),
        ("execute_request", json!({ "code": "1" }), "execute_reply", "missing field `silent`"),
        ("history_request", json!({ "hist_access_type": "tale" }), "history_reply", "tale"),
        ("juggle_request", json!({}), "juggle_reply", "does not know"),
    ] {
        shell.send(request(kind, content)).await.unwrap();
        let (name, refused) = reply(&mut shell).await;
        assert_eq!((name.as_str(), &refused["status"]), (answer, &json!("error")));
        assert!(refused["evalue"].as_str().unwrap().contains(why), "{refused}");
        assert!(refused["ename"].is_string() && refused["traceback"].is_array(), "{refused}");
    }
    // The front end sees the kernel begin and end with it.
    let id = kernel.tell(request("juggle_request", json!({}))).await;
    for state in ["busy", "idle"] {
        assert_eq!(serde_json::to_value(kernel.next(&id).await).unwrap()["execution_state"], state);
    }
}

#[tokio::test]
async fn history_is_given_without_what_the_protocol_lets_a_client_leave_out() {
    let mut kernel = Kernel::start().await;
    for cell in ["1 + 1", "2 + 2", "1 + 1"] {
        kernel.run(cell).await.ok();
    }
    for (asked, found) in [
        (json!({ "hist_access_type": "range", "start": 2, "output": false, "raw": true }), 2),
        (json!({ "hist_access_type": "search", "pattern": "1*" }), 2),
        (json!({ "hist_access_type": "search", "pattern": "1*", "unique": true }), 1),
    ] {
        let reply = kernel.ask(request("history_request", asked.clone())).await;
        let Content::HistoryReply(reply) = reply else { panic!("{reply:?}") };
        assert_eq!((reply.status, reply.history.len()), (ReplyStatus::Ok, found), "{asked}");
    }
}

#[tokio::test]
async fn a_comm_that_nobody_here_knows_is_closed() {
    let mut kernel = Kernel::start().await;
    let (comm_id, target_name) = (CommId("widget".into()), "jupyter.widget".to_string());
    let id = kernel.tell(CommOpen { comm_id: comm_id.clone(), target_name, ..CommOpen::default() }).await;
    let closed = loop {
        let next = kernel.next(&id).await;
        let idle = serde_json::to_value(&next).unwrap()["execution_state"] == "idle";
        assert!(!idle, "the comm is open");
        if let Content::CommClose(closed) = next {
            break closed;
        }
    };
    assert_eq!(closed.comm_id, comm_id);
}

#[tokio::test]
async fn every_user_expression_is_answered() {
    let mut kernel = Kernel::start().await;
    let asked = ["a", "b"].map(|name| (name.to_string(), "1 + 1".to_string()));
    let request = ExecuteRequest { user_expressions: Some(asked.into()), ..ExecuteRequest::new("1".into()) };
    let Content::ExecuteReply(reply) = kernel.ask(request.into()).await else { panic!("no reply") };
    assert_eq!(reply.status, ReplyStatus::Ok);
    let answered = reply.user_expressions.unwrap();
    for name in ["a", "b"] {
        let answer = &answered[name];
        assert!(matches!(answer, ExpressionResult::Error { ename, .. } if ename == "NotSupported"), "{answer:?}");
    }
}
