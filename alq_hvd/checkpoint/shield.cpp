// Signals that a process does not take unless its parent sent them: for workers beside a rank that a signal is meant for.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <vector>

#include <unistd.h>

namespace {

constexpr int largest = 64;
struct sigaction replaced[largest + 1];  // what a signal did before, by number
volatile pid_t parent = 0;               // who may send signals beside getppid(): a fork server's child has another parent

bool meant_for_this_process(const siginfo_t &info) {
    if (info.si_code > 0) return false;  // the kernel's, such as a terminal's to its whole group
    return info.si_pid == getppid() || info.si_pid == parent || info.si_pid == getpid();
}

// Only functions that POSIX allows in a handler; the replaced handler sees to itself.
void take(int number, siginfo_t *info, void *context) {
    if (!meant_for_this_process(*info)) return;
    const struct sigaction &before = replaced[number];
    if (before.sa_flags & SA_SIGINFO) {
        before.sa_sigaction(number, info, context);
    } else if (before.sa_handler != SIG_DFL) {
        before.sa_handler(number);
    } else {
        struct sigaction standard {};
        standard.sa_handler = SIG_DFL;
        sigaction(number, &standard, nullptr);
        raise(number);  // taken when this handler returns
    }
}

void shield(const std::vector<int> &numbers, pid_t sender) {
    parent = sender;
    for (int number : numbers) {
        struct sigaction now {};
        if (number < 1 || number > largest || sigaction(number, nullptr, &now) != 0)
            throw pybind11::value_error("expected signals that can be handled, got " + std::to_string(number));
        const bool ignored = !(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_IGN;
        if (ignored || now.sa_sigaction == take) continue;
        replaced[number] = now;
        struct sigaction ours {};
        ours.sa_sigaction = take;
        ours.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
        if (sigaction(number, &ours, nullptr) != 0)
            throw pybind11::value_error("signal " + std::to_string(number) + ": " + std::strerror(errno));
    }
}

}  // namespace

PYBIND11_MODULE(_shield, module) {
    module.def("shield", &shield, pybind11::arg("numbers"), pybind11::arg("sender"));
}
