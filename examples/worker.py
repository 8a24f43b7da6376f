from ojs_client import App

app = App()


@app.task(name="email.send")
async def send_email(to: str, subject: str) -> dict[str, str]:
    print(f"send '{subject}' to {to}")
    return {"status": "delivered"}


if __name__ == "__main__":
    app.run()
