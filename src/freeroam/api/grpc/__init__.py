"""The gRPC door: the Open Inference Protocol's service, its health and its reflection."""

from freeroam.processes.forking import leave_forks_alone

leave_forks_alone()
