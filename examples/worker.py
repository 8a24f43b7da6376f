from ojs_client import RunningJob, Worker

worker = Worker(queues=["default"])


@worker.handler("email.send")
async def send_email(job: RunningJob) -> dict[str, str]:
    message = job.args[0]
    print(f"send '{message['subject']}' to {message['to']}")
    return {"status": "delivered"}


if __name__ == "__main__":
    worker.run()
