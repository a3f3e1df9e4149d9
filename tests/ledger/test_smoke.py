from spanledger import ToolCall

def test_a_call_runs_once(ledger):
    ran = []
    for _ in range(2):
        assert ledger.run(ToolCall("refund", {"a": 1}, workflow_id="w"), lambda: ran.append(1) or {"n": len(ran)}) == {"n": 1}
