// Figures of a web server's access log, live or at once. See docs/access_log.md, or:
//
//     access_log --help
//     access_log --demo
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <exception>

#include "examples/access_log/live.h"
#include "examples/access_log/once.h"
#include "examples/access_log/options.h"
#include "sluice/sluice.h"

int main(int argc, char** argv) {
  sluice::init(argc, argv);
  const access_log::CommandLine line = access_log::read_command_line(argc, argv);
  if (line.exit_status) return *line.exit_status;
  std::signal(SIGPIPE, SIG_IGN);  // `| head` is seen as a failed write, and what is temporary gets removed
  try {
    if (!line.options.once) return access_log::run_live(line.options, STDOUT_FILENO);
    const access_log::OnceResult result = access_log::read_once(line.options);
    const std::string text = line.options.json ? to_json(result.report) + '\n' : to_text(result);
    return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0 ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "access_log: %s\n", error.what());
    return 1;
  }
}
