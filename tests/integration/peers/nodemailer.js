// Sends mail by nodemailer: node nodemailer.js OPTIONS MAIL COUNT, the first two JSON as its documentation has them.
// In its environment TRUSTED is the file of who is trusted. Prints for each message what the server answered last; the exit status is 1 when one was refused.
const { readFileSync } = require("fs");
const mailer = require("nodemailer");

const [options, mail, count] = [JSON.parse(process.argv[2]), JSON.parse(process.argv[3]), Number(process.argv[4])];

async function main() {
  const tls = { ca: readFileSync(process.env.TRUSTED) };
  const transport = mailer.createTransport({ pool: count > 1, maxConnections: 1, tls, ...options });
  try {
    for (let number = 0; number < count; number++) {
      console.log((await transport.sendMail(mail)).response);
    }
  } finally {
    transport.close();
  }
}

main().catch((problem) => {
  console.log(String(problem));
  process.exitCode = 1;
});
