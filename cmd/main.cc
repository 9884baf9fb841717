// The command `sluice`: looks after what streams leave on disk, makes the certificates of a cluster, and runs programs
// on one of Ray's.
//
//     sluice checkpoint ls /var/lib/hits
//     sluice certs /etc/sluice
//     sluice submit --master ray://head:10001 ./hits
//     sluice --help
#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include "cmd/certs.h"
#include "cmd/submit.h"
#include "sluice/runtime/errors.h"
#include "sluice/runtime/runtime.h"
#include "sluice/stream/inspect.h"

namespace {

constexpr int exit_damaged = 1;
constexpr int exit_usage = 2;

int verify(sluice::FileSystem& files, const std::string& directory) {
  const sluice::detail::Verified found = sluice::detail::verify_checkpoints(files, directory);
  for (const std::string& problem : found.problems) std::printf("damaged: %s\n", problem.c_str());
  std::printf("%zu checkpoints, %zu records of the journal, %zu blocks of receivers, %zu owed outputs are whole\n",
              found.checkpoints, found.journal_records, found.blocks, found.owed);
  return found.problems.empty() ? 0 : exit_damaged;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Looks after what sluice's streams leave on disk, and after clusters.", "sluice");
  app.require_subcommand(1);
  CLI::App* const checkpoint = app.add_subcommand(
      "checkpoint", "Checkpoint directories. All but rm changes nothing, and the stream may run meanwhile.");
  checkpoint->require_subcommand(1);
  std::string directory;
  long long batch = 0;
  const auto add = [&](const char* name, const char* what) {
    CLI::App* const command = checkpoint->add_subcommand(name, what);
    command->add_option("DIR", directory, "the checkpoint directory")->required();
    return command;
  };
  const CLI::App* const ls = add("ls", "what lies in the directory: checkpoints, journal, owed outputs");
  const CLI::App* const verify_command =
      add("verify", "reads and checks all of it; status 1 when something is damaged");
  CLI::App* const show = add("show", "one checkpoint: operators, schemas, keys, bytes");
  show->add_option("--batch", batch, "batch time in milliseconds; the newest by default");
  CLI::App* const rm = add("rm", "removes a checkpoint, so that the one before it is used");
  rm->add_option("--batch", batch, "batch time in milliseconds")->required();
  CLI::App* const certs = app.add_subcommand(
      "certs", "Makes what the hosts of a cluster need to trust each other: an authority and a member.");
  sluice_cmd::CertsArguments certs_arguments;
  certs->add_option("DIR", certs_arguments.directory, "where ca.pem, ca.key, node.pem, node.key and token go")
      ->required();
  certs->add_option("--days", certs_arguments.days, "how long the member's certificate is valid")
      ->capture_default_str()
      ->check(CLI::Range(1, 36'500));
  certs->add_flag("--renew", certs_arguments.renew, "a new member of the authority that is there");
  CLI::App* const submit = app.add_subcommand(
      "submit", "Runs a program on a Ray cluster: `submit --help` says how; also submit status, logs, stop and list.");
  submit->prefix_command();
  submit->set_help_flag();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : exit_usage;
  }
  sluice::FileSystem& files = sluice::system_runtime().files();
  try {
    if (*ls) std::fputs(sluice::detail::list_checkpoints(files, directory).c_str(), stdout);
    if (*verify_command) return verify(files, directory);
    if (*show) std::fputs(sluice::detail::show_checkpoint(files, directory, batch).c_str(), stdout);
    if (*rm) sluice::detail::remove_checkpoint(files, directory, batch);
    if (*certs) sluice_cmd::make_certs(certs_arguments);
    if (*submit) sluice_cmd::submit(submit->remaining());
    return 0;
  } catch (const sluice::Error& error) {
    std::fprintf(stderr, "sluice: %s\n", error.what());
    return exit_damaged;
  }
}
