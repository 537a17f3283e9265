"""A mail server for tests: every accepted mail becomes one JSON file; addresses say how they want to be treated."""

import asyncio
import email
import email.policy
import json
import os
import sys
import threading

from aiosmtpd.smtp import SMTP

port, folder = int(sys.argv[1]), sys.argv[2]
seen = {}
number = 0


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("refused"):
            return "550 5.1.1 nobody of that name"
        if address.startswith("later") and not seen.get(address):
            seen[address] = True
            return "451 4.7.1 greylisted, try again"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        global number
        mail = email.message_from_bytes(envelope.original_content, policy=email.policy.default)
        body = lambda kind: mail.get_body((kind,)).get_content() if mail.get_body((kind,)) else None
        said = {
            "to": list(envelope.rcpt_tos),
            "header": str(mail["To"]),
            "subject": str(mail["Subject"]),
            "id": str(mail["Message-ID"]),
            "type": mail.get_content_type(),
            "text": body("plain"),
            "html": body("html"),
        }
        number += 1
        name = os.path.join(folder, "%06d-%d" % (number, os.getpid()))
        with open(name + ".part", "w") as file:
            json.dump(said, file)
        os.rename(name + ".part", name + ".json")
        return "250 OK"


def end_with_parent():
    sys.stdin.buffer.read()
    os._exit(0)


async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Handler(), hostname="mail.test", enable_SMTPUTF8=True), "127.0.0.1", port)
    await server.serve_forever()


threading.Thread(target=end_with_parent, daemon=True).start()
asyncio.run(main())
