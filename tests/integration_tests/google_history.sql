-- What AlloyDBChatMessageHistory of langchain-google-alloydb-pg 0.15.0 and PostgresChatMessageHistory of
-- langchain-google-cloud-sql-pg 0.15.0 wrote, both the same, with langchain-core 1.7.2 on PostgreSQL 18.
CREATE TABLE google_history (id SERIAL PRIMARY KEY, session_id TEXT NOT NULL, data JSONB NOT NULL, type TEXT NOT NULL);
INSERT INTO google_history (session_id, data, type) VALUES
('s', '{"id": "1", "name": "Ivan", "type": "human", "content": "héllo 👍", "additional_kwargs": {}, "response_metadata": {}}', 'human'),
('s', '{"id": null, "name": null, "type": "ai", "content": "", "tool_calls": [{"id": "c1", "args": {"a": 1, "b": [0.5, null]}, "name": "f", "type": "tool_call"}], "usage_metadata": {"input_tokens": 1, "total_tokens": 3, "output_tokens": 2}, "additional_kwargs": {}, "response_metadata": {}, "invalid_tool_calls": []}', 'ai'),
('s', '{"id": null, "name": null, "type": "tool", "status": "success", "content": "42", "artifact": null, "tool_call_id": "c1", "additional_kwargs": {}, "response_metadata": {}}', 'tool'),
('s', '{"id": null, "name": null, "type": "system", "content": "be brief", "additional_kwargs": {}, "response_metadata": {}}', 'system'),
('s', '{"id": null, "name": null, "role": "moderator", "type": "chat", "content": "any", "additional_kwargs": {}, "response_metadata": {}}', 'chat');
